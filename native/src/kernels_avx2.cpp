// The kernels for AVX2; this file is compiled with that instruction set's flags.

#include "kernels_simd.h"

namespace gpt2kit {

const Kernels kAvx2Kernels = {"avx2", linear, partial_sums, finish_sums, project, layer_norm, attention};

}  // namespace gpt2kit
