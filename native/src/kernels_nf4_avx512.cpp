// The NF4 kernels for AVX-512 with VNNI and VBMI; this file is compiled with those instruction sets' flags.

#include "kernels_nf4_simd.h"

namespace gpt2kit {

const Nf4Kernels kNf4Avx512Kernels = kNf4Kernels;

}  // namespace gpt2kit
