// The int8 kernels for AVX2; this file is compiled with that instruction set's flags.

#include "kernels_int8_simd.h"

namespace gpt2kit {

const Int8Kernels kInt8Avx2Kernels = kInt8Kernels;

}  // namespace gpt2kit
