// The bfloat16 products for AVX2; this file is compiled with that instruction set's flags.

#include "bfloat16_simd.h"

namespace gpt2kit {

const BFloat16Kernels kAvx2BFloat16Kernels = kBFloat16Kernels;

}  // namespace gpt2kit
