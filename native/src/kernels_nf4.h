// Products with matrices in NF4, the 4 bits of bitsandbytes.
//
// A matrix (I, O) is cut into blocks of 64 inputs of one output. A weight is one of the 16 numbers of
// kNf4Values times the scale of its block, rounded once to float32. With double quantisation a scale is kept
// in 8 bits too:
//   scale = kDynamicMap[code] * nested[block / 256] + *offset, each step rounded to float32,
// where blocks are counted in the order of bitsandbytes, output by output: block = output * (I / 64) + input
// / 64. I is a multiple of 64, so that no block runs from one output into the next.
//
// Codes lie in panels of 16 outputs and groups of 64 inputs, as those of kernels_int8.h do. A line of 64
// bytes holds 16 outputs by 8 inputs:
//   codes [panel][group][line 0..7][output 0..15][byte 0..3]; scales, or their codes, [panel][group][output].
// Byte b of an output holds the inputs b, in the low half, and b + 4 of its eight. So a shift by 0, 8, 4 or
// 12 bits leaves the weights of a pair of activations at the ends of its two words.
//
// Products with activations in 16 bits (Int8Rows) take the 16 numbers as integers out of 914, which fits them
// best: each is off by at most kNf4Error of the scale, where neighbours are 0.08 to 0.3 apart. A group's sum
// is exact: 64 * 914 * 32767 < 2^31. In all, against exact products with the dequantised weights w, a sum is
// off by
//   at most   sum over groups of (m / 65534 * sum |w'| + kNf4Error * scale * sum |x|)   and float32's
//   rounding,
// m being the largest of the group's activations x and w' the weights so rounded.

#pragma once

#include <cstdint>

#include "kernels_int8.h"
#include "weights.h"

namespace gpt2kit {

constexpr int64_t kNf4LineInputs = 8, kNf4NestedBlock = 256;

struct Nf4Matrix {
  const uint8_t* codes;
  Nf4Scales scales;
  int64_t in_features, out_features;

  int64_t groups() const { return in_features / kInt8Group; }
  const uint8_t* panel_codes(int64_t panel) const {
    return codes + panel * groups() * (kInt8Group * kInt8Panel / 2);
  }
};

// The matrix of a tensor that is kNf4.
inline Nf4Matrix nf4_matrix(const Tensor& tensor, int64_t in_features, int64_t out_features) {
  return {static_cast<const uint8_t*>(tensor.data), tensor.nf4_scales, in_features, out_features};
}

struct Nf4Kernels {
  // Panels [begin, end) of out = epilogue(x w), as Int8Kernels::multiply.
  //   Order: the same, with the scale s = (scale of the weights * kNf4Step) * scale of the activations.
  void (*multiply)(float* out, int64_t out_stride, const Int8Rows& x, const Nf4Matrix& w, int64_t rows,
                   int64_t begin, int64_t end, const Epilogue& epilogue);

  // One panel as float32: out[i * stride + j] = w[i, 16 * panel + j]; what pads the matrix is unspecified.
  void (*unpack)(float* out, int64_t stride, const Nf4Matrix& w, int64_t panel);
};

// Quantiles of a normal distribution; QLoRA (https://arxiv.org/abs/2305.14314), appendix E.
constexpr float kNf4Values[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};
constexpr float kNf4Step = 1.0f / 914;
constexpr float kNf4Error = 3.51e-4f;
constexpr int16_t kNf4Integers[16] = {-914, -636, -480, -361, -260, -169, -83, 0,
                                      73,   147,  225,  309,  403,  514,  661, 914};

// Where the code of input k of eight begins in the 32 bits of an output.
constexpr int nf4_shift(int64_t k) { return static_cast<int>(k % 4 * 8 + k / 4 * 4); }

// The 256 numbers of the 8-bit dynamic data type, ascending; dynamic_map() in gpt2kit/quant/codes.py.
extern const float (&kDynamicMap)[256];

extern const Nf4Kernels kNf4ReferenceKernels;
#ifdef GPT2KIT_X86
extern const Nf4Kernels kNf4Avx2Kernels;
extern const Nf4Kernels kNf4Avx512Kernels;  // with VNNI and VBMI
#endif

}  // namespace gpt2kit
