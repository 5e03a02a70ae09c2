// The int8 kernels for AVX2; this file is compiled with that instruction set's flags.

#include "kernels_int8_dot_simd.h"

namespace gpt2kit {

const Int8Kernels kInt8Avx2Kernels = {quantize_int8, multiply_panels<Int8Weights>, quantize_bytes,
                                      multiply_bytes, unpack_int8};

}  // namespace gpt2kit
