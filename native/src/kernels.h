// The arithmetic of the CPU engine: a table of plain functions, one table for each instruction set.
//
// Dimensions: B rows of a batch (tokens of all its sequences), T tokens, C channels (n_embd), H heads,
// D head size (C/H), V vocabulary, I/O features in/out. All arrays are float32, but for the matrices of
// weights, w, which MatrixKernels reads in any of the formats of weights.h and widens, exactly, as it goes.
//
// Rounding is part of each contract. Every kernel names the exact order of its additions, and no order
// depends on the number of rows in the call, on the thread that runs it or on the width of a register.
// So a row's result is the same, to the bit, alone or in a batch, on one thread or many, with AVX2,
// AVX-512 or the reference. Nor does it depend on the format of the weights, given their values.
//
// Kernels are pure: they know no model, allocate nothing and start no threads.

#pragma once

#include <cstdint>

#include "kernels_attention.h"
#include "kernels_int8.h"
#include "kernels_nf4.h"
#include "weights.h"

namespace gpt2kit {

enum class Activation : int32_t {
  kNone = 0,
  kGeluTanh,   // gelu_new and its other spellings: x * sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
  kGeluErf,    // gelu: x/2 (1 + erf(x / sqrt 2))
  kGeluQuick,  // quick_gelu: x * sigmoid(1.702 x)
  kRelu,
  kSilu,  // silu, swish: x * sigmoid(x)
  kTanh,
  kSigmoid,
};

// What happens to a product before it is stored.
struct Epilogue {
  const float* bias;       // (O), or null for none
  Activation activation;   // applied to product + bias
  bool add_to_out;         // out += result (the residual stream) rather than out = result
  bool round_out = false;  // to bfloat16, which only BFloat16Kernels do; never together with add_to_out
};

// A product's sums come in two chains, over the first and the second half of the input features, so that two
// threads can each stream whole rows of the weights from memory. Where the first chain ends:
constexpr int64_t half(int64_t in_features) { return (in_features + 1) / 2; }

// The blocks of linear_simd.h: columns that are packed together, steps of a chain, rows.
constexpr int64_t kGroupColumns = 64, kChunkSteps = 768, kLinearRows = 512;
// Scratch, in floats, that a caller gives each thread.
constexpr int64_t kLinearScratchFloats = 2 * kGroupColumns * (kChunkSteps + kLinearRows);

// The kernels that read weights, for one format of them.
struct MatrixKernels {
  // Columns [begin, end) of out = epilogue(x w), for many rows.
  //   x (B, I) with row stride x_stride; w (I, O) row-major, O = w_stride; out (B, O) with row stride
  //   out_stride. scratch is 64-byte aligned, kLinearScratchFloats long.
  //   Order: two chains of fused multiply-adds from zero, k = 0 .. half(I)-1 and half(I) .. I-1; first +
  //   second; + bias; then the activation.
  void (*linear)(float* out, int64_t out_stride, const float* x, int64_t x_stride, const void* w,
                 int64_t w_stride, int64_t rows, int64_t in_features, int64_t begin, int64_t end,
                 const Epilogue& epilogue, float* scratch);

  // The same in two steps, for few rows: one chain over k_begin .. k_end-1 into columns [begin, end) of sums,
  // which has the row stride sums_stride. Kernels::finish_sums does the rest.
  void (*partial_sums)(float* sums, int64_t sums_stride, const float* x, int64_t x_stride, const void* w,
                       int64_t w_stride, int64_t rows, int64_t k_begin, int64_t k_end, int64_t begin,
                       int64_t end);

  // Rows [begin, end) of the vocabulary: out[b, v] = x[b] . w[v].
  //   x (B, C) with row stride x_stride; w (V, C) row-major; out (B, V) with row stride out_stride.
  //   Order: 16 partial sums, sum j over k = j, j+16, ..., by fused multiply-add; then sum_lanes.
  void (*project)(float* out, int64_t out_stride, const float* x, int64_t x_stride, const void* w,
                  int64_t rows, int64_t channels, int64_t begin, int64_t end);

  // out[i] = w[i], i < n.
  void (*widen)(float* out, const void* w, int64_t n);
};

struct Kernels {
  const char* name;
  MatrixKernels matrix_kernels[kNumFloatDtypes];
  const MatrixKernels& reading(Dtype dtype) const { return matrix_kernels[static_cast<int>(dtype)]; }

  // Columns [begin, end) of out = epilogue(first + second), where those are partial sums.
  void (*finish_sums)(float* out, int64_t out_stride, const float* first, const float* second,
                      int64_t sums_stride, int64_t rows, int64_t begin, int64_t end,
                      const Epilogue& epilogue);

  // out = (x - mean) / sqrt(variance + epsilon) * weight + bias over one row of C channels; out may be x.
  //   Mean and variance are sums in the order of project, the variance around the mean.
  void (*layer_norm)(float* out, const float* x, const float* weight, const float* bias, float epsilon,
                     int64_t channels);

  const AttentionKernels* attention_kernels;  // kNumKvFormats of them
  const AttentionKernels& attending(KvFormat format) const {
    return attention_kernels[static_cast<int>(format)];
  }

  // Up to 16 words: out[b, j] = x[b] . column j < width of a panel (C, 16), which is float32.
  //   Order: that of MatrixKernels::project.
  void (*project_panel)(float* out, int64_t out_stride, const float* x, int64_t x_stride, const float* panel,
                        int64_t rows, int64_t channels, int64_t width);

  const Int8Kernels* int8;
  const Nf4Kernels* nf4;
};

// A slow, obvious implementation with the same rounding: the specification, the fallback and the oracle.
extern const Kernels kReferenceKernels;
#ifdef GPT2KIT_X86
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512VnniKernels;  // for int8; the rest is the same
extern const Kernels kAvx512VbmiKernels;  // for NF4 too
#endif

// Values [begin, begin + n) of a tensor as float32: where they lie, or widened into the buffer.
inline const float* as_floats(const Kernels& kernels, const Tensor& tensor, int64_t begin, int64_t n,
                              float* buffer) {
  if (tensor.dtype == Dtype::kFloat32) return static_cast<const float*>(tensor.at(begin));
  kernels.reading(tensor.dtype).widen(buffer, tensor.at(begin), n);
  return buffer;
}

// The best table for this processor, or the one that the environment variable GPT2KIT_ISA names
// ("reference", "avx2", "avx512"). Throws std::runtime_error for an unknown or unsupported name.
const Kernels& select_kernels(const char* isa_or_null);

}  // namespace gpt2kit
