// The kernels for AVX-512; this file is compiled with that instruction set's flags.

#include "kernels_simd.h"

namespace gpt2kit {

const Kernels kAvx512Kernels = {"avx512", linear, partial_sums, finish_sums, project, layer_norm, attention};

}  // namespace gpt2kit
