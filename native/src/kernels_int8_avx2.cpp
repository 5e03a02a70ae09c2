// The int8 kernels for AVX2; this file is compiled with that instruction set's flags.

#include "kernels_int8_dot_simd.h"

namespace gpt2kit {

const Int8Kernels kInt8Avx2Kernels = {quantize_int8, multiply_int8, quantize_bytes, multiply_bytes};

}  // namespace gpt2kit
