// Which kernels this processor can run.

#ifdef GPT2KIT_X86
#include <cpuid.h>
#endif

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace gpt2kit {
namespace {

#ifdef GPT2KIT_X86
// The compiler's check covers the operating system's part (XCR0) too.
bool has_f16c() {  // float16 to float32, which the builtin of older compilers does not know
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

const Kernels& avx512_kernels() {
  return __builtin_cpu_supports("avx512vnni") ? kAvx512VnniKernels : kAvx512Kernels;
}
#endif

}  // namespace

const Kernels& select_kernels(const char* isa_or_null) {
  const std::string wanted = isa_or_null ? isa_or_null : "";
  if (wanted == "reference") return kReferenceKernels;
#ifdef GPT2KIT_X86
  if (wanted.empty()) return has_avx512() ? avx512_kernels() : has_avx2() ? kAvx2Kernels : kReferenceKernels;
  if (wanted == "avx512" || wanted == "avx2") {
    const bool supported = wanted == "avx512" ? has_avx512() : has_avx2();
    if (!supported)
      throw std::runtime_error("instruction set '" + wanted + "' is not supported by this processor");
    return wanted == "avx512" ? avx512_kernels() : kAvx2Kernels;
  }
#else
  if (wanted.empty()) return kReferenceKernels;
#endif
  throw std::runtime_error("unknown instruction set '" + wanted + "'; use reference, avx2 or avx512");
}

}  // namespace gpt2kit
