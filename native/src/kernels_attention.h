// Attention of one head, and the formats of the keys and values that it reads.
//
// Both lie in blocks of 16 positions: a block of keys is [D][16], so that one register holds the scores of 16
// positions, a block of values [16][Dp], with Dp = D rounded up to 16 and padding zero. The formats:
//
//   float32   as they come.
//   bfloat16  rounded to nearest, ties to even; subnormals become zero.
//   int8      codes from -127 to 127 times a scale. Each position's key has one, and its value another: a
//   block
//             begins with its 16 scales, in float32. scale = largest magnitude / 127 with its 8 lowest bits
//             cleared, so that code * scale is exact; code = round_to_even(x * (1 / scale)). Where that is
//             below the smallest normal number both are zero. A row with something that is not finite is all
//             NaN.
//
// Attention over any of them is, to the bit, attention in float32 over what widen() gives, which loses
// nothing.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "weights.h"

namespace gpt2kit {

enum class KvFormat : int32_t { kFloat32, kBFloat16, kInt8 };
constexpr int kNumKvFormats = 3;

constexpr int kKeyBlock = 16;  // positions of a block, of keys or of values

constexpr int64_t kv_blocks(int64_t positions) { return (positions + kKeyBlock - 1) / kKeyBlock; }

// Bytes of a block whose positions have `width` numbers: D for keys, Dp for values.
constexpr int64_t kv_block_bytes(KvFormat format, int64_t width) {
  const int64_t size = format == KvFormat::kFloat32 ? 4 : format == KvFormat::kBFloat16 ? 2 : 1;
  const int64_t scales = format == KvFormat::kInt8 ? kKeyBlock * static_cast<int64_t>(sizeof(float)) : 0;
  return kKeyBlock * width * size + scales;
}

// T is float, BFloat16 or int8_t.
template <typename T>
constexpr KvFormat kFormatOf = sizeof(T) == 4   ? KvFormat::kFloat32
                               : sizeof(T) == 2 ? KvFormat::kBFloat16
                                                : KvFormat::kInt8;

template <typename T>
struct KvBlock {
  float* scales;  // 16, of int8 only
  T* rows;
};

template <typename T>
inline KvBlock<T> kv_block(void* data, int64_t block, int64_t width) {
  char* p = static_cast<char*>(data) + block * kv_block_bytes(kFormatOf<T>, width);
  constexpr bool has_scales = kFormatOf<T> == KvFormat::kInt8;
  return {reinterpret_cast<float*>(p),
          reinterpret_cast<T*>(p + (has_scales ? kKeyBlock * sizeof(float) : 0))};
}
template <typename T>
inline KvBlock<const T> kv_block(const void* data, int64_t block, int64_t width) {
  const KvBlock<T> found = kv_block<T>(const_cast<void*>(data), block, width);
  return {found.scales, found.rows};
}

// The scale of a row of int8: zero for one of zeros, NaN where `largest` is not finite.
inline float int8_row_scale(float largest) {
  if (!(largest < INFINITY)) return NAN;
  const float scale = largest / 127.0f;
  if (scale < 0x1p-126f) return 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &scale, 4);
  return float_from_bits(bits & 0xffffff00u);
}

// The kernels for one format.
struct AttentionKernels {
  // Rounds T keys and values to the format and puts them behind `past` others.
  //   key, value (T, D), both with row stride `stride`.
  void (*append)(void* keys, void* values, const float* key, const float* value, int64_t stride,
                 int64_t tokens, int64_t past, int64_t head_size);

  // The whole blocks that hold positions [0, length), as blocks of float32.
  void (*widen)(float* wide_keys, float* wide_values, const void* keys, const void* values, int64_t length,
                int64_t head_size);

  // One head's causal attention for T consecutive queries at positions past .. past+T-1.
  //   q (T, D) with row stride q_stride, out (T, D) with row stride out_stride; keys and values hold
  //   positions 0 .. past+T-1 already. probabilities (T, *) with row stride probabilities_stride, or null:
  //   row i receives the past+i+1 that query i sees, and nothing behind them. scratch:
  //   attention_scratch_floats(), aligned. Order: score = fma chain over d of (q*scale) k; softmax subtracts
  //   the row's maximum, sums exponentials as 16 partial sums over t mod 16; value = fma chain over t; then /
  //   sum.
  void (*attention)(float* out, int64_t out_stride, const float* q, int64_t q_stride, const void* keys,
                    const void* values, int64_t queries, int64_t past, int64_t head_size, float scale,
                    float* probabilities, int64_t probabilities_stride, float* scratch);
};

// Scratch, in floats, that a caller gives each thread. max_length bounds past+T.
constexpr int64_t attention_scratch_floats(KvFormat format, int64_t max_length, int64_t head_size) {
  const int64_t padded = (head_size + 15) / 16 * 16, positions = kv_blocks(max_length) * kKeyBlock;
  const int64_t tile = 12 * (positions + 64) + 12 * padded * 2;
  return format == KvFormat::kFloat32 ? tile : tile + positions * (head_size + padded);
}

// In the order of KvFormat.
extern const AttentionKernels kReferenceAttention[kNumKvFormats];

}  // namespace gpt2kit
