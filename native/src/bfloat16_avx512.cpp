// The bfloat16 products for AVX-512 with AVX512-BF16; this file is compiled with those sets' flags.

#include "bfloat16_simd.h"

namespace gpt2kit {

const BFloat16Kernels kAvx512BFloat16Kernels = kBFloat16Kernels;

}  // namespace gpt2kit
