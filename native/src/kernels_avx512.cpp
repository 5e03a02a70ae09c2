// The kernels for AVX-512; this file is compiled with that instruction set's flags.

#include "kernels_attention_simd.h"
#include "linear_simd.h"

namespace gpt2kit {
namespace {

constexpr Kernels with_codes(const Int8Kernels* int8, const Nf4Kernels* nf4) {
  return {"avx512",    {kReading<float>, kReading<BFloat16>, kReading<Float16>},
          finish_sums, layer_norm,
          kAttention,  project_panel,
          int8,        nf4};
}

}  // namespace

const Kernels kAvx512Kernels = with_codes(&kInt8Avx2Kernels, &kNf4Avx2Kernels);
const Kernels kAvx512VnniKernels = with_codes(&kInt8VnniKernels, &kNf4Avx2Kernels);
const Kernels kAvx512VbmiKernels = with_codes(&kInt8VnniKernels, &kNf4Avx512Kernels);

}  // namespace gpt2kit
