// Quantising a matrix of floats into the panels of kernels_int8.h. gpt2kit/quant/int8.py defines the result,
// to the bit.

#pragma once

#include "kernels.h"
#include "kernels_int8.h"
#include "weights.h"

namespace gpt2kit {

// A matrix (I, O) in a format of floats: in rows of outputs, or with is_transposed in rows of inputs, as
// embeddings lie.
struct FloatMatrix {
  Tensor values;
  int64_t in_features, out_features;
  bool is_transposed;
};

// For each output, in the Euclidean norm and rounded up: the weights, and what its codes differ from them by.
struct Int8Norms {
  float* weights;  // (O)
  float* errors;   // (O)
};

// Writes all codes and scales, padding included, and for a transposed matrix norms, if not null. kernels
// widen what is not float32; they change no result. False for a matrix with weights that are not finite or of
// 2^126 and above; what was written then means nothing.
bool pack_int8(uint8_t* codes, BFloat16* scales, const FloatMatrix& matrix, const Kernels& kernels,
               int threads, const Int8Norms* norms = nullptr);

}  // namespace gpt2kit
