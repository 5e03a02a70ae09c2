// Which kernels this processor can run.

#ifdef GPT2KIT_X86
#include <cpuid.h>
#endif

#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "bfloat16_kernels.h"
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

bool has_avx512_bf16() {
  unsigned a, b, c, d;
  return has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5);
}

// Whether vdpbf16ps rounds and orders here as the contract says, on values where each other way would show.
bool agrees_with_reference(const BFloat16Kernels& kernels) {
  constexpr int64_t kFeatures = 6, kColumns = 512;
  std::vector<BFloat16> w(kFeatures * kColumns), x(kFeatures);
  uint32_t random = 1;
  const auto next = [&random](unsigned lowest_exponent, unsigned exponents) {
    random = random * 1664525u + 1013904223u;
    const uint32_t fraction_and_sign = random >> 8 & 0x807fu;
    random = random * 1664525u + 1013904223u;
    return BFloat16{
        static_cast<uint16_t>(fraction_and_sign | (lowest_exponent + (random >> 16) % exponents) << 7)};
  };
  for (const unsigned exponent : {120u, 60u, 0u}) {  // usual values; products near the smallest; subnormals
    for (BFloat16& value : x) value = next(exponent, 6);
    for (BFloat16& value : w) value = next(exponent == 0 ? 124 : exponent, 6);
    std::vector<float> sums(kColumns), expected(kColumns);
    kernels.partial_sums(sums.data(), kColumns, x.data(), kFeatures, w.data(), kColumns, 1, 0, kFeatures, 0,
                         kColumns);
    kReferenceBFloat16Kernels.partial_sums(expected.data(), kColumns, x.data(), kFeatures, w.data(), kColumns,
                                           1, 0, kFeatures, 0, kColumns);
    if (std::memcmp(sums.data(), expected.data(), kColumns * sizeof(float)) != 0) return false;
  }
  return true;
}

const Kernels& avx512_kernels() {
  if (!__builtin_cpu_supports("avx512vnni")) return kAvx512Kernels;
  return __builtin_cpu_supports("avx512vbmi") ? kAvx512VbmiKernels : kAvx512VnniKernels;
}
#endif

}  // namespace

const BFloat16Kernels& select_bfloat16_kernels(const Kernels& kernels) {
#ifdef GPT2KIT_X86
  const std::string isa = kernels.name;  // several tables may share one
  if (isa == "avx512") {
    static const bool has_instruction = has_avx512_bf16() && agrees_with_reference(kAvx512BFloat16Kernels);
    return has_instruction ? kAvx512BFloat16Kernels : kAvx2BFloat16Kernels;
  }
  if (isa == "avx2") return kAvx2BFloat16Kernels;
#else
  static_cast<void>(kernels);
#endif
  return kReferenceBFloat16Kernels;
}

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
