// The int8 kernels for AVX-512 with VNNI; this file is compiled with those instruction sets' flags.

#include "kernels_int8_simd.h"

namespace gpt2kit {

const Int8Kernels kInt8VnniKernels = kInt8Kernels;

}  // namespace gpt2kit
