// Matrices of floats and of bitsandbytes' files into the panels of kernels_nf4.h. gpt2kit/quant/nf4.py
// defines the result, to the bit. in_features are a multiple of 64.

#pragma once

#include "kernels.h"
#include "kernels_nf4.h"
#include "pack_int8.h"
#include "weights.h"

namespace gpt2kit {

// Writes all codes and scales, before double quantisation, padding included: zeros. The matrix is in rows of
// outputs. False for weights that are not finite; what was written then means nothing.
bool pack_nf4(uint8_t* codes, float* scales, const FloatMatrix& matrix, const Kernels& kernels, int threads);

// Writes all codes from those of bitsandbytes: (O, I / 2) bytes, the first of two inputs in the high half.
void repack_nf4(uint8_t* codes, const uint8_t* stored, int64_t in_features, int64_t out_features,
                int threads);

}  // namespace gpt2kit
