// The kernels for AVX2; this file is compiled with that instruction set's flags.

#include "kernels_attention_simd.h"
#include "linear_simd.h"

namespace gpt2kit {

const Kernels kAvx2Kernels = {"avx2",
                              {kReading<float>, kReading<BFloat16>, kReading<Float16>},
                              finish_sums,
                              layer_norm,
                              kAttention,
                              project_panel,
                              &kInt8Avx2Kernels,
                              &kNf4Avx2Kernels};

}  // namespace gpt2kit
