// Attention, written once over F32x16 and compiled for each instruction set. See kernels_attention.h for what
// it computes and in what order, kernels_attention_reference.cpp for the plain form.

#pragma once

#include "kernels_attention.h"
#include "kernels_simd.h"

namespace gpt2kit {
namespace {

// More queries than this share one float32 copy of the keys and values; fewer widen them as they read.
constexpr int64_t kDirectQueries = 2 * kTileRows;

constexpr int64_t padded_head(int64_t head_size) { return (head_size + kLanes - 1) / kLanes * kLanes; }

// ---- writing ----

// NaN where one of them is not finite.
inline float largest_magnitude(const float* x, int64_t n) {
  F32x16 largest = zero(), spoilt = zero();
  for (int64_t i = 0; i < n; i += kLanes) {
    const F32x16 values = n - i >= kLanes ? load(x + i) : load_first(x + i, n - i);
    largest = max(max(values, zero() - values), largest);
    spoilt = fma(values, zero(), spoilt);
  }
  return reduce_max(largest) + reduce_add(spoilt);
}

// What the numbers of a row are multiplied by before they are rounded. Writes the scale of int8.
template <typename T>
inline F32x16 factor_of(const float* x, int64_t n, float* scale) {
  if constexpr (kFormatOf<T> == KvFormat::kInt8) {
    *scale = int8_row_scale(largest_magnitude(x, n));
    return set1(*scale > 0.0f ? 1.0f / *scale : 0.0f);
  }
  return set1(1.0f);
}

inline void store_rounded(float* out, F32x16 x, F32x16 /*factor*/, int64_t n) {
  n == kLanes ? store(out, x) : store_first(out, x, n);
}
inline void store_rounded(BFloat16* out, F32x16 x, F32x16 /*factor*/, int64_t n) { store_rounded(out, x, n); }
inline void store_rounded(int8_t* out, F32x16 x, F32x16 factor, int64_t n) {
  store_codes(out, x * factor, n);
}

template <typename T>
inline void append(void* keys, void* values, const float* key, const float* value, int64_t stride,
                   int64_t tokens, int64_t past, int64_t head_size) {
  const int64_t padded = padded_head(head_size);
  for (int64_t i = 0; i < tokens; ++i, key += stride, value += stride) {
    const int64_t block = (past + i) / kKeyBlock, t = (past + i) % kKeyBlock;
    const KvBlock<T> k = kv_block<T>(keys, block, head_size), v = kv_block<T>(values, block, padded);
    const F32x16 key_factor = factor_of<T>(key, head_size, k.scales + t);
    const F32x16 value_factor = factor_of<T>(value, head_size, v.scales + t);
    for (int64_t d = 0; d < head_size; d += kLanes) {
      const int64_t n = std::min<int64_t>(kLanes, head_size - d);
      const auto part = [n](const float* p) { return n == kLanes ? load(p) : load_first(p, n); };
      T column[kLanes];
      store_rounded(column, part(key + d), key_factor, n);
      for (int64_t j = 0; j < n; ++j) k.rows[(d + j) * kKeyBlock + t] = column[j];
      store_rounded(v.rows + t * padded + d, part(value + d), value_factor, n);
    }
  }
}

// ---- reading ----

inline F32x16 scaled_by(F32x16 x, F32x16 /*scale*/, float) { return x; }
inline F32x16 scaled_by(F32x16 x, F32x16 /*scale*/, BFloat16) { return x; }
inline F32x16 scaled_by(F32x16 x, F32x16 scale, int8_t) { return x * scale; }

// The scales of a block's keys, a lane each, and that of one of its values in all lanes.
template <typename T>
inline F32x16 key_scales(const KvBlock<const T>& block) {
  return kFormatOf<T> == KvFormat::kInt8 ? load(block.scales) : zero();
}
template <typename T>
inline F32x16 value_scale(const KvBlock<const T>& block, int64_t t) {
  return kFormatOf<T> == KvFormat::kInt8 ? set1(block.scales[t]) : zero();
}

template <typename T>
inline void widen_blocks(float* wide_keys, float* wide_values, const void* keys, const void* values,
                         int64_t length, int64_t head_size) {
  const int64_t padded = padded_head(head_size);
  for (int64_t block = 0; block < kv_blocks(length); ++block) {
    const KvBlock<const T> k = kv_block<T>(keys, block, head_size), v = kv_block<T>(values, block, padded);
    const F32x16 scales = key_scales<T>(k);
    for (int64_t d = 0; d < head_size; ++d, wide_keys += kLanes)
      store(wide_keys, scaled_by(load(k.rows + d * kKeyBlock), scales, T{}));
    for (int64_t t = 0; t < kKeyBlock; ++t) {
      const F32x16 scale = value_scale<T>(v, t);
      for (int64_t d = 0; d < padded; d += kLanes, wide_values += kLanes)
        store(wide_values, scaled_by(load(v.rows + t * padded + d), scale, T{}));
    }
  }
}

// ---- attention ----

// Turns a row of scores (length valid, padded to a multiple of 16) into exponentials, zero past the length;
// returns their sum.
inline float exponentials(float* scores, int64_t length, int64_t padded) {
  const int64_t whole = length / kLanes * kLanes, left = length - whole;
  const F32x16 lowest = set1(-__builtin_inff());
  F32x16 largest = lowest;
  for (int64_t t = 0; t < whole; t += kLanes) largest = max(largest, load(scores + t));
  if (left) largest = max(largest, keep_first(load(scores + whole), left, lowest));
  const F32x16 shift = set1(reduce_max(largest));
  F32x16 sum = zero();
  for (int64_t t = 0; t < whole; t += kLanes) {
    const F32x16 e = exp(load(scores + t) - shift);
    store(scores + t, e);
    sum = sum + e;
  }
  if (left) {
    const F32x16 e = keep_first(exp(load(scores + whole) - shift), left, zero());
    store(scores + whole, e);
    sum = sum + e;
  }
  for (int64_t t = whole + (left ? kLanes : 0); t < padded; t += kLanes) store(scores + t, zero());
  return reduce_add(sum);
}

// A single query over a short format outruns the processor's own prefetching, so it says what it will read:
// while it multiplies a register it fetches as much from some kFetchedBytes ahead.
constexpr int64_t kFetchedBytes = 8192;
template <int kRows, int kVectors, typename T>
constexpr bool kFetchesAhead = kRows == 1 && kVectors == 4 && sizeof(T) < sizeof(float);

// scores[r, t] for the positions of kVectors blocks of keys from `block` on. ahead: what will be read later.
template <int kRows, int kVectors, typename T>
inline void score_blocks(float* scores, int64_t stride, const float* q, int64_t q_stride, const void* keys,
                         int64_t block, int64_t head_size, const char* ahead) {
  const T* rows[kVectors];
  F32x16 scales[kVectors], sums[kRows][kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const KvBlock<const T> k = kv_block<T>(keys, block + v, head_size);
    rows[v] = k.rows;
    scales[v] = key_scales<T>(k);
    if (kFetchesAhead<kRows, kVectors, T>) prefetch(ahead + v * kLine);
  }
  clear(sums);
  add_products(sums, q, q_stride, head_size, [&](int64_t d, int v) {
    // Four registers are sizeof(T) lines; those of the scales have been fetched.
    constexpr int kLines = sizeof(T);
    if (kFetchesAhead<kRows, kVectors, T> && v < kLines)
      prefetch(ahead + (kVectors + d * kLines + v) * kLine);
    return scaled_by(load(rows[v] + d * kKeyBlock), scales[v], T{});
  });
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) store(scores + r * stride + (block + v) * kKeyBlock, sums[r][v]);
}

// out[r, d] for kVectors registers of channels from d on: the sum over positions of weights[r, t] value[t,
// d].
template <int kRows, int kVectors, typename T>
inline void weigh_values(float* out, int64_t out_stride, const float* weights, int64_t weights_stride,
                         const void* values, int64_t d, int64_t length, int64_t padded) {
  const int64_t block_bytes = kv_block_bytes(kFormatOf<T>, padded);
  const int64_t ahead = (kFetchedBytes + block_bytes - 1) / block_bytes * block_bytes;
  F32x16 sums[kRows][kVectors];
  clear(sums);
  for (int64_t t0 = 0; t0 < length; t0 += kKeyBlock) {
    const KvBlock<const T> v = kv_block<T>(values, t0 / kKeyBlock, padded);
    const T* rows = v.rows + d;
    const int64_t count = std::min<int64_t>(kKeyBlock, length - t0);
    if (kFetchesAhead<kRows, kVectors, T>) prefetch(reinterpret_cast<const char*>(v.scales) + ahead);
    add_products(sums, weights + t0, weights_stride, count, [&](int64_t t, int c) {
      const T* row = rows + t * padded;
      if (kFetchesAhead<kRows, kVectors, T> && c < static_cast<int>(sizeof(T)))
        prefetch(reinterpret_cast<const char*>(row) + ahead + c * kLine);
      return scaled_by(load(row + c * kLanes), value_scale<T>(v, t), T{});
    });
  }
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kVectors; ++c) store(out + r * out_stride + d + c * kLanes, sums[r][c]);
}

// The queries of one register tile.
template <int kRows, typename T>
inline void attend_tile(float* out, int64_t out_stride, const float* q, int64_t q_stride, const void* keys,
                        const void* values, int64_t past, int64_t head_size, float scale,
                        float* probabilities, int64_t probabilities_stride, float* scratch) {
  const int64_t padded = padded_head(head_size);
  const int64_t longest = past + kRows;  // the last query of the tile sees this many positions
  const int64_t blocks = kv_blocks(longest);
  // One extra cache line a row: rows a power of two apart would share their sets of the cache.
  const int64_t stride = blocks * kKeyBlock + (blocks % 4 ? 0 : kLanes);
  float* scores = scratch;
  float* scaled = scores + kRows * stride;
  float* values_out = scaled + kRows * padded;
  for (int r = 0; r < kRows; ++r)
    for (int64_t d = 0; d < head_size; ++d) scaled[r * padded + d] = q[r * q_stride + d] * scale;

  constexpr int kVectors = kRows == 1 ? 4 : kTileVectors;  // a single query needs several chains in flight
  const int64_t block_bytes = kv_block_bytes(kFormatOf<T>, head_size);
  const auto ahead_of = [&](int64_t at) {  // values are read after all keys
    at += kFetchedBytes / (kVectors * block_bytes) * kVectors + kVectors;
    return at < blocks ? static_cast<const char*>(keys) + at * block_bytes
                       : static_cast<const char*>(values) + (at - blocks) * block_bytes;
  };
  int64_t block = 0;
  for (; block + kVectors <= blocks; block += kVectors)
    score_blocks<kRows, kVectors, T>(scores, stride, scaled, padded, keys, block, head_size, ahead_of(block));
  for (; block < blocks; ++block)
    score_blocks<kRows, 1, T>(scores, stride, scaled, padded, keys, block, head_size, nullptr);

  float totals[kRows];
  for (int r = 0; r < kRows; ++r)
    totals[r] = exponentials(scores + r * stride, past + r + 1, blocks * kKeyBlock);

  int64_t d = 0;
  for (; d + kVectors * kLanes <= padded; d += kVectors * kLanes)
    weigh_values<kRows, kVectors, T>(values_out, padded, scores, stride, values, d, longest, padded);
  for (; d < padded; d += kLanes)
    weigh_values<kRows, 1, T>(values_out, padded, scores, stride, values, d, longest, padded);

  for (int r = 0; r < kRows; ++r) {
    for (d = 0; d < head_size; d += kLanes) {
      const F32x16 y = load(values_out + r * padded + d) / set1(totals[r]);
      float* o = out + r * out_stride + d;
      head_size - d >= kLanes ? store(o, y) : store_first(o, y, head_size - d);
    }
  }
  if (!probabilities) return;
  for (int r = 0; r < kRows; ++r) {
    for (int64_t t = 0, length = past + r + 1; t < length; t += kLanes) {
      const F32x16 p = load(scores + r * stride + t) / set1(totals[r]);
      float* o = probabilities + r * probabilities_stride + t;
      length - t >= kLanes ? store(o, p) : store_first(o, p, length - t);
    }
  }
}

template <typename T>
inline void attention(float* out, int64_t out_stride, const float* q, int64_t q_stride, const void* keys,
                      const void* values, int64_t queries, int64_t past, int64_t head_size, float scale,
                      float* probabilities, int64_t probabilities_stride, float* scratch) {
  if (kFormatOf<T> != KvFormat::kFloat32 && queries > kDirectQueries) {
    const int64_t positions = kv_blocks(past + queries) * kKeyBlock;
    float* wide_keys = scratch;
    float* wide_values = wide_keys + positions * head_size;
    widen_blocks<T>(wide_keys, wide_values, keys, values, past + queries, head_size);
    attention<float>(out, out_stride, q, q_stride, wide_keys, wide_values, queries, past, head_size, scale,
                     probabilities, probabilities_stride, wide_values + positions * padded_head(head_size));
    return;
  }
  for_row_tiles(queries, [&](auto count, int64_t row) {
    attend_tile<decltype(count)::value, T>(
        out + row * out_stride, out_stride, q + row * q_stride, q_stride, keys, values, past + row, head_size,
        scale, probabilities ? probabilities + row * probabilities_stride : nullptr, probabilities_stride,
        scratch);
  });
}

template <typename T>
constexpr AttentionKernels kAttending = {append<T>, widen_blocks<T>, attention<T>};

constexpr AttentionKernels kAttention[kNumKvFormats] = {kAttending<float>, kAttending<BFloat16>,
                                                        kAttending<int8_t>};

}  // namespace
}  // namespace gpt2kit
