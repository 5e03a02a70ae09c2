// Products with matrices whose weights are integers of 8 bits.
//
// A matrix (I, O) is cut into panels of 16 outputs and groups of 64 inputs. A weight is a code of -127 .. 127
// times the scale of its group and output, a bfloat16, so that a weight is exact in float32. A line of 64
// bytes holds the codes, each plus 128, of the 16 outputs of a panel for 4 inputs in a row:
//   codes [panel][group][line 0..15][output 0..15][input 0..3], uint8; scales [panel][group][output],
//   bfloat16.
// The lines of a panel follow one another, so a product reads the matrix strictly in the order of memory, and
// a register of any width meets whole outputs. Inputs and outputs that pad the matrix have the code 128.
//
// Activations become integers too, with a scale for each group of 64: of 16 bits, whose rounding is a
// hundredth of that of the weights, or of 8 bits, which are multiplied twice as fast. Sums of a group are
// exact in 32 bits: their order does not matter.

#pragma once

#include <cstdint>

#include "weights.h"

namespace gpt2kit {

struct Epilogue;

constexpr int64_t kInt8Group = 64, kInt8Panel = 16, kInt8LineInputs = 4, kInt8LineBytes = 64;
constexpr int64_t int8_groups(int64_t in_features) { return (in_features + kInt8Group - 1) / kInt8Group; }
constexpr int64_t int8_panels(int64_t out_features) { return (out_features + kInt8Panel - 1) / kInt8Panel; }

struct Int8Matrix {
  const uint8_t* codes;
  const BFloat16* scales;
  int64_t in_features, out_features;

  int64_t groups() const { return int8_groups(in_features); }
  const uint8_t* panel_codes(int64_t panel) const {
    return codes + panel * groups() * kInt8Group * kInt8Panel;
  }
  const BFloat16* panel_scales(int64_t panel) const { return scales + panel * groups() * kInt8Panel; }
};

// The matrix of a tensor that is kInt8.
inline Int8Matrix int8_matrix(const Tensor& tensor, int64_t in_features, int64_t out_features) {
  return {static_cast<const uint8_t*>(tensor.data), tensor.scales, in_features, out_features};
}

// Rows of activations in 16 bits. Each four values lie in the order 0, 2, 1, 3: a line's even bytes meet the
// first pair, its odd bytes the second.
struct Int8Rows {
  int16_t* values;  // (rows, stride)
  int64_t stride;   // int8_rows_stride(I)
  float* scales;    // (rows, groups)
  int32_t* starts;  // (rows, groups): -128 times the sum of a group's values, which undoes the codes' + 128
};

// An odd number of cache lines.
constexpr int64_t int8_rows_stride(int64_t in_features) { return int8_groups(in_features) * kInt8Group + 32; }
// Rows of activations in 8 bits, in their own order; else as Int8Rows.
struct ByteRows {
  int8_t* values;  // (rows, stride)
  int64_t stride;  // byte_rows_stride(I)
  float* scales;
  int32_t* starts;
};

// An odd number of cache lines.
constexpr int64_t byte_rows_stride(int64_t in_features) {
  return (int8_groups(in_features) / 2 * 2 + 1) * 64;
}
// The memory of all three arrays of either, in floats.
constexpr int64_t int8_rows_floats(int64_t rows, int64_t in_features) {
  return rows * (int8_rows_stride(in_features) / 2 + 2 * int8_groups(in_features)) + 16;
}

struct Int8Kernels {
  // Turns rows [begin, end) of x (rows, I), with row stride x_stride, into integers.
  //   m = the largest magnitude of a group. Where it is not finite, the scale is NaN and the values 0; below
  //   kInt8Least both are 0. Otherwise scale = m / 32767, value = x * (32767 / m) to nearest, ties to even.
  void (*quantize)(const Int8Rows& rows, const float* x, int64_t x_stride, int64_t in_features, int64_t begin,
                   int64_t end);

  // Panels [begin, end) of out = epilogue(x w); out (rows, O) with row stride out_stride.
  //   Order: a chain over the groups from zero, sum = fma(s, p, sum), p = the group's integer product as
  //   float32 (nearest), s = scale of the weights * scale of the activations; + bias; then the activation.
  void (*multiply)(float* out, int64_t out_stride, const Int8Rows& x, const Int8Matrix& w, int64_t rows,
                   int64_t begin, int64_t end, const Epilogue& epilogue);

  // The same with activations of 8 bits: 127 in the place of 32767.
  void (*quantize_bytes)(const ByteRows& rows, const float* x, int64_t x_stride, int64_t in_features,
                         int64_t begin, int64_t end);
  void (*multiply_bytes)(float* out, int64_t out_stride, const ByteRows& x, const Int8Matrix& w, int64_t rows,
                         int64_t begin, int64_t end, const Epilogue& epilogue);
};

constexpr float kInt8Least = 0x1p-100f;

// out[i] = w[i, output], the inputs of one output.
void widen_int8_output(float* out, const Int8Matrix& w, int64_t output);

extern const Int8Kernels kInt8ReferenceKernels;
#ifdef GPT2KIT_X86
extern const Int8Kernels kInt8Avx2Kernels;
extern const Int8Kernels kInt8VnniKernels;  // AVX-512 with VNNI
#endif

}  // namespace gpt2kit
