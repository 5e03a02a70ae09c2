// The kernels for AVX-512; this file is compiled with that instruction set's flags.

#include "kernels_attention_simd.h"
#include "linear_simd.h"

namespace gpt2kit {
namespace {

constexpr Kernels with_int8(const Int8Kernels* int8) {
  return {"avx512",    {kReading<float>, kReading<BFloat16>, kReading<Float16>},
          finish_sums, layer_norm,
          kAttention,  int8};
}

}  // namespace

const Kernels kAvx512Kernels = with_int8(&kInt8Avx2Kernels);
const Kernels kAvx512VnniKernels = with_int8(&kInt8VnniKernels);

}  // namespace gpt2kit
