// The NF4 kernels for AVX2; this file is compiled with that instruction set's flags.

#include "kernels_nf4_simd.h"

namespace gpt2kit {

const Nf4Kernels kNf4Avx2Kernels = kNf4Kernels;

}  // namespace gpt2kit
