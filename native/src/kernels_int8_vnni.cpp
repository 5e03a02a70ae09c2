// The int8 kernels for AVX-512 with VNNI; this file is compiled with those instruction sets' flags.

#include "kernels_int8_dot_simd.h"

namespace gpt2kit {

const Int8Kernels kInt8VnniKernels = {quantize_int8, multiply_int8, quantize_bytes, multiply_bytes};

}  // namespace gpt2kit
