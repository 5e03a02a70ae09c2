// The fast kernels, written once over F32x16 and compiled for each instruction set. See kernels.h for
// what each computes and in what order, kernels_reference.cpp for the plain form.

#pragma once

#include <algorithm>

#include "kernels.h"
#include "scalar_math.h"
#include "simd.h"

namespace gpt2kit {
namespace {

#ifdef __AVX512F__
// 12 rows x 2 registers: 24 accumulators of 32 registers, 14 loads for 24 multiply-adds, so that the two
// load ports (2 per cycle) never hold up the two multiply-add ports (2 per cycle).
constexpr int kTileRows = 12, kTileVectors = 2;
#else
// 6 rows x 16 lanes: 12 accumulators of the 16 AVX2 registers.
constexpr int kTileRows = 6, kTileVectors = 1;
#endif
constexpr int kTileColumns = kTileVectors * kLanes;

constexpr int kLine = 64;  // bytes of a cache line
// How far ahead of their use weights are fetched when each is used once, in bytes.
constexpr int64_t kAheadBytes = 12288;

// ---- element-wise ----

// Called from loops whose registers are full; a call would store and load them all.
#define GPT2KIT_ALWAYS __attribute__((always_inline))
#define GPT2KIT_INLINE inline GPT2KIT_ALWAYS

GPT2KIT_INLINE F32x16 exp(F32x16 x) {
  const F32x16 bounded = min(set1(kExpHigh), x);
  const F32x16 n = round_even(bounded * set1(kLog2e));
  F32x16 r = fma(n, set1(-kLn2High), bounded);
  r = fma(n, set1(-kLn2Low), r);
  F32x16 p = set1(kExpPoly[0]);
  for (int i = 1; i < 6; ++i) p = fma(p, r, set1(kExpPoly[i]));
  p = fma(p, r * r, r) + set1(1.0f);
  return zero_where_less(x, kExpLow, scale_by_power(p, n));
}

GPT2KIT_INLINE F32x16 x_sigmoid(F32x16 x, F32x16 u) { return x / (set1(1.0f) + exp(zero() - u)); }

// Those that need the C library.
inline F32x16 activate_lanes(F32x16 x, Activation activation) {
  float lanes[kLanes];
  store(lanes, x);
  for (float& lane : lanes) lane = activate_scalar(lane, activation);
  return load(lanes);
}

GPT2KIT_INLINE F32x16 activate(F32x16 x, Activation activation) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kGeluTanh:
      return x_sigmoid(x, set1(kGeluScale) * x * fma(set1(kGeluCubic) * x, x, set1(1.0f)));
    case Activation::kGeluQuick:
      return x_sigmoid(x, set1(1.702f) * x);
    case Activation::kRelu:
      return max(x, zero());
    case Activation::kSilu:
      return x_sigmoid(x, x);
    default:
      return activate_lanes(x, activation);
  }
}

// Finishes n <= 16 columns of one row.
inline void finish(float* out, F32x16 sum, const float* bias, const Epilogue& epilogue, int64_t n) {
  if (n == kLanes) {
    if (bias) sum = sum + load(bias);
    sum = activate(sum, epilogue.activation);
    store(out, epilogue.add_to_out ? load(out) + sum : sum);
  } else {
    if (bias) sum = sum + load_first(bias, n);
    sum = activate(sum, epilogue.activation);
    store_first(out, epilogue.add_to_out ? load_first(out, n) + sum : sum, n);
  }
}

// Calls body(activation of one register), so that a loop in it holds the activation's code alone.
template <typename Body>
inline void with_activation(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::kNone:
      return body([](F32x16 x) { return x; });
    case Activation::kGeluTanh:
      return body([](F32x16 x) GPT2KIT_ALWAYS { return activate(x, Activation::kGeluTanh); });
    default:
      return body([activation](F32x16 x) { return activate(x, activation); });
  }
}

// Finishes a tile: column n of row r goes to out + r * out_stride + n. put(destination, value) stores whole
// registers; a narrow tile or one without bias takes its columns singly, by put_first(destination, sum, bias,
// n).
template <int kRows, int kVectors, typename Out, typename Put, typename PutFirst>
inline void finish_tile(Out* out, int64_t out_stride, const F32x16 (&sums)[kRows][kVectors],
                        const float* bias, Activation activation, int64_t width, const Put& put,
                        const PutFirst& put_first) {
  if (!bias || width < kVectors * kLanes) {
    for (int r = 0; r < kRows; ++r)
      for (int64_t v = 0, n = 0; v < kVectors && n < width; ++v, n += kLanes)
        put_first(out + r * out_stride + n, sums[r][v], bias ? bias + n : nullptr,
                  std::min<int64_t>(kLanes, width - n));
    return;
  }
  F32x16 biases[kVectors];
  for (int v = 0; v < kVectors; ++v) biases[v] = load(bias + v * kLanes);
  with_activation(activation, [&](auto activated) {
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v)
        put(out + r * out_stride + v * kLanes, activated(sums[r][v] + biases[v]));
  });
}

template <int kRows, int kVectors>
inline void finish_tile(float* out, int64_t out_stride, const F32x16 (&sums)[kRows][kVectors],
                        const float* bias, const Epilogue& epilogue, int64_t width) {
  const auto put_first = [&](float* o, F32x16 sum, const float* b, int64_t n) {
    finish(o, sum, b, epilogue, n);
  };
  if (epilogue.add_to_out) {
    const auto add = [](float* o, F32x16 y) { store(o, load(o) + y); };
    finish_tile(out, out_stride, sums, bias, epilogue.activation, width, add, put_first);
  } else {
    const auto put = [](float* o, F32x16 y) { store(o, y); };
    finish_tile(out, out_stride, sums, bias, epilogue.activation, width, put, put_first);
  }
}

// ---- the register tile ----

template <int kRows, int kVectors>
inline void clear(F32x16 (&sums)[kRows][kVectors]) {
  for (auto& row : sums)
    for (auto& sum : row) sum = zero();
}

// sums[r][v] += a[r, 0..depth) . b[0..depth, v]: each goes on with its chain of multiply-adds. b(k, v) gives
// row k of b's vector v.
template <int kRows, int kVectors, typename Factor>
inline void add_products(F32x16 (&sums)[kRows][kVectors], const float* a, int64_t a_stride, int64_t depth,
                         const Factor& b) {
  for (int64_t k = 0; k < depth; ++k) {
    F32x16 column[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) column[v] = b(k, v);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const F32x16 x = set1(a[r * a_stride + k]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] = fma(x, column[v], sums[r][v]);
    }
  }
}

// Calls body(rows_constant, first_row) over tiles of kTileRows rows, then the remainder in smaller tiles.
template <int kRows>
struct RowCount {
  static constexpr int value = kRows;
};

template <int kRows, typename Body>
inline void for_row_tiles_from(int64_t row, int64_t rows, const Body& body) {
  for (; row + kRows <= rows; row += kRows) body(RowCount<kRows>{}, row);
  if constexpr (kRows > 1) {
    if (row < rows) for_row_tiles_from<(kRows == 12 ? 8 : kRows > 4 ? 4 : kRows / 2)>(row, rows, body);
  }
}

template <typename Body>
inline void for_row_tiles(int64_t rows, const Body& body) {
  for_row_tiles_from<kTileRows>(0, rows, body);
}

// ---- linear ----

// With so few bytes a value memory keeps up with one core only when it is read strictly in order and ahead.
template <typename W>
constexpr bool kIsShort = sizeof(W) == 2;

// One row: weights go by in the order of memory, the sums of all columns stay in the first-level cache.
template <typename W>
inline void stream_rows(float* sums, const float* x, const W* w, int64_t w_stride, int64_t depth,
                        int64_t width) {
  constexpr int kLineVectors = kLine / (kLanes * static_cast<int>(sizeof(W)));
  const int64_t whole = width / kLanes * kLanes,
                lines = width / (kLineVectors * kLanes) * (kLineVectors * kLanes);
  const int64_t width_bytes = width * static_cast<int64_t>(sizeof(W));
  const int64_t ahead = (kAheadBytes + width_bytes - 1) / width_bytes * w_stride;
  for (int64_t k = 0; k < depth; ++k) {
    const W* row = w + k * w_stride;
    const F32x16 factor = set1(x[k]);
    const auto add = [&](int64_t n) { store(sums + n, fma(factor, load(row + n), load(sums + n))); };
    int64_t n = 0;
    for (; n < lines; n += kLineVectors * kLanes) {
      prefetch_once(row + ahead + n);
      for (int v = 0; v < kLineVectors; ++v) add(n + v * kLanes);
    }
    for (; n < whole; n += kLanes) add(n);
    if (n < width) {
      const int64_t left = width - n;
      store_first(sums + n, fma(factor, load_first(row + n, left), load_first(sums + n, left)), left);
    }
  }
}

// Few rows: the weights are the traffic, so each is read once, in the order of memory. Sums for a stripe of
// columns stay in the first-level cache while eight rows of weights at a time go by.
template <int kUnroll, typename W>
inline void add_rows(float* sums, int64_t sums_stride, const float* x, int64_t x_stride, const W* w,
                     int64_t w_stride, int64_t rows, int64_t width) {
  const int64_t whole = width / kLanes * kLanes, left = width - whole;
  const auto add = [&](F32x16 sum, const float* factors, const F32x16* weight) {
#pragma GCC unroll 8
    for (int u = 0; u < kUnroll; ++u) sum = fma(set1(factors[u]), weight[u], sum);
    return sum;
  };
  if (rows == 1) {  // its factors stay in registers
    F32x16 factor[kUnroll];
#pragma GCC unroll 8
    for (int u = 0; u < kUnroll; ++u) factor[u] = set1(x[u]);
    for (int64_t n = 0; n < whole; n += kLanes) {
      F32x16 sum = load(sums + n);
#pragma GCC unroll 8
      for (int u = 0; u < kUnroll; ++u) sum = fma(factor[u], load(w + u * w_stride + n), sum);
      store(sums + n, sum);
    }
  } else {
    for (int64_t n = 0; n < whole; n += kLanes) {
      F32x16 weight[kUnroll];
#pragma GCC unroll 8
      for (int u = 0; u < kUnroll; ++u) {
        weight[u] = load(w + u * w_stride + n);
        prefetch(w + (u + kUnroll) * w_stride + n);
      }
      for (int64_t b = 0; b < rows; ++b) {
        float* s = sums + b * sums_stride + n;
        store(s, add(load(s), x + b * x_stride, weight));
      }
    }
  }
  if (left) {
    F32x16 weight[kUnroll];
#pragma GCC unroll 8
    for (int u = 0; u < kUnroll; ++u) weight[u] = load_first(w + u * w_stride + whole, left);
    for (int64_t b = 0; b < rows; ++b) {
      float* s = sums + b * sums_stride + whole;
      store_first(s, add(load_first(s, left), x + b * x_stride, weight), left);
    }
  }
}

template <typename W>
inline void partial_sums(float* sums, int64_t sums_stride, const float* x, int64_t x_stride,
                         const void* weights, int64_t w_stride, int64_t rows, int64_t k_begin, int64_t k_end,
                         int64_t begin, int64_t end) {
  const W* w = static_cast<const W*>(weights);
#ifdef __AVX512F__
  constexpr int kUnroll = 8;
#else
  constexpr int kUnroll = 4;  // 8 of the 16 registers hold weights
#endif
  constexpr int64_t kStripeFloats = 6144;  // 24 KiB of sums, half of a 48 KiB cache
  const int64_t stripe = std::max<int64_t>(32, kStripeFloats / rows / 32 * 32);
  for (int64_t n0 = begin; n0 < end; n0 += stripe) {
    const int64_t width = std::min(stripe, end - n0);
    for (int64_t b = 0; b < rows; ++b) std::fill_n(sums + b * sums_stride + n0, width, 0.0f);
    if (rows == 1 && kIsShort<W>) {
      stream_rows(sums + n0, x + k_begin, w + k_begin * w_stride + n0, w_stride, k_end - k_begin, width);
      continue;
    }
    int64_t k = k_begin;
    for (; k + kUnroll <= k_end; k += kUnroll) {
      add_rows<kUnroll>(sums + n0, sums_stride, x + k, x_stride, w + k * w_stride + n0, w_stride, rows,
                        width);
    }
    for (; k < k_end; ++k) {
      add_rows<1>(sums + n0, sums_stride, x + k, x_stride, w + k * w_stride + n0, w_stride, rows, width);
    }
  }
}

inline void finish_sums(float* out, int64_t out_stride, const float* first, const float* second,
                        int64_t sums_stride, int64_t rows, int64_t begin, int64_t end,
                        const Epilogue& epilogue) {
  for (int64_t b = 0; b < rows; ++b) {
    for (int64_t n = begin; n < end; n += kLanes) {
      const int64_t left = std::min<int64_t>(kLanes, end - n), i = b * sums_stride + n;
      const F32x16 sum = left == kLanes ? load(first + i) + load(second + i)
                                        : load_first(first + i, left) + load_first(second + i, left);
      finish(out + b * out_stride + n, sum, epilogue.bias ? epilogue.bias + n : nullptr, epilogue, left);
    }
  }
}

// ---- project ----

// kRows rows of x against kWords rows of w.
template <int kRows, int kWords, typename W>
inline void project_tile(float* out, int64_t out_stride, const float* x, int64_t x_stride, const W* w,
                         int64_t channels) {
  F32x16 sums[kRows][kWords];
  for (auto& row : sums)
    for (auto& sum : row) sum = zero();
  const int64_t whole = channels / kLanes * kLanes;
  constexpr int64_t ahead = kAheadBytes / static_cast<int64_t>(sizeof(W));
  for (int64_t k = 0; k < whole; k += kLanes) {
    F32x16 a[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) a[r] = load(x + r * x_stride + k);
#pragma GCC unroll 6
    for (int v = 0; v < kWords; ++v) {
      const F32x16 weight = load(w + v * channels + k);
      if (kRows == 1 && kWords == 1 && k * static_cast<int64_t>(sizeof(W)) % kLine == 0)
        prefetch_once(w + v * channels + k + ahead);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) sums[r][v] = fma(a[r], weight, sums[r][v]);
    }
  }
  if (whole < channels) {
    const int64_t left = channels - whole;
    for (int v = 0; v < kWords; ++v) {
      const F32x16 weight = load_first(w + v * channels + whole, left);
      for (int r = 0; r < kRows; ++r) {
        sums[r][v] = fma(load_first(x + r * x_stride + whole, left), weight, sums[r][v]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kWords; ++v) out[r * out_stride + v] = reduce_add(sums[r][v]);
}

template <int kWords, typename W>
inline void project_rows(float* out, int64_t out_stride, const float* x, int64_t x_stride, const W* w,
                         int64_t rows, int64_t channels) {
  int64_t b = 0;
  for (; b + 4 <= rows; b += 4) {
    project_tile<4, kWords>(out + b * out_stride, out_stride, x + b * x_stride, x_stride, w, channels);
  }
  for (; b < rows; ++b) {
    project_tile<1, kWords>(out + b * out_stride, out_stride, x + b * x_stride, x_stride, w, channels);
  }
}

template <typename W>
inline void project(float* out, int64_t out_stride, const float* x, int64_t x_stride, const void* weights,
                    int64_t rows, int64_t channels, int64_t begin, int64_t end) {
  const W* w = static_cast<const W*>(weights);
#ifdef __AVX512F__
  constexpr int64_t kWords = 6;  // 4 x 6 sums + 4 rows of x + 1 weight: 29 of 32 registers
#else
  constexpr int64_t kWords = 2;
#endif
  if (rows == 1 && kIsShort<W>) {
    for (int64_t v = begin; v < end; ++v) {
      project_tile<1, 1>(out + v, out_stride, x, x_stride, w + v * channels, channels);
    }
    return;
  }
  constexpr int64_t kRowsBlock = 128;  // of x, so that a block stays in the second-level cache
  constexpr int64_t kWordsBlock = 60;
  for (int64_t b0 = 0; b0 < rows; b0 += kRowsBlock) {
    const int64_t block = std::min(kRowsBlock, rows - b0);
    const float* xb = x + b0 * x_stride;
    for (int64_t v0 = begin; v0 < end; v0 += kWordsBlock) {
      const int64_t v1 = std::min(end, v0 + kWordsBlock);
      int64_t v = v0;
      for (; v + kWords <= v1; v += kWords) {
        project_rows<kWords>(out + b0 * out_stride + v, out_stride, xb, x_stride, w + v * channels, block,
                             channels);
      }
      for (; v < v1; ++v) {
        project_rows<1>(out + b0 * out_stride + v, out_stride, xb, x_stride, w + v * channels, block,
                        channels);
      }
    }
  }
}

// A lane is a word; the sixteen partial sums of each are sixteen registers.
inline void project_panel(float* out, int64_t out_stride, const float* x, int64_t x_stride,
                          const float* panel, int64_t rows, int64_t channels, int64_t width) {
  for (int64_t b = 0; b < rows; ++b) {
    const float* row = x + b * x_stride;
    F32x16 sums[kLanes];
    for (auto& sum : sums) sum = zero();
    const int64_t whole = channels / kLanes * kLanes;
    for (int64_t k = 0; k < whole; k += kLanes) {
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j)
        sums[j] = fma(set1(row[k + j]), load(panel + (k + j) * kLanes), sums[j]);
    }
    for (int64_t k = whole; k < channels; ++k)
      sums[k - whole] = fma(set1(row[k]), load(panel + k * kLanes), sums[k - whole]);
    for (int half = kLanes / 2; half > 0; half /= 2)
      for (int j = 0; j < half; ++j) sums[j] = sums[j] + sums[j + half];
    float* o = out + b * out_stride;
    width == kLanes ? store(o, sums[0]) : store_first(o, sums[0], width);
  }
}

// ---- widen ----

template <typename W>
inline void widen_all(float* out, const void* weights, int64_t n) {
  const W* w = static_cast<const W*>(weights);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, load(w + i));
  if (i < n) store_first(out + i, load_first(w + i, n - i), n - i);
}

// ---- layer_norm ----

inline void layer_norm(float* out, const float* x, const float* weight, const float* bias, float epsilon,
                       int64_t channels) {
  const int64_t whole = channels / kLanes * kLanes, left = channels - whole;
  const auto row = [&](const float* p, int64_t k) {
    return k < whole ? load(p + k) : load_first(p + k, left);
  };
  F32x16 sum = zero();
  for (int64_t k = 0; k < channels; k += kLanes) sum = sum + row(x, k);
  const F32x16 mean = set1(reduce_add(sum) / static_cast<float>(channels));
  F32x16 squares = zero();
  for (int64_t k = 0; k < channels; k += kLanes) {
    F32x16 centred = row(x, k) - mean;
    if (k >= whole) centred = keep_first(centred, left, zero());
    squares = fma(centred, centred, squares);
  }
  const float variance = reduce_add(squares) / static_cast<float>(channels);
  const F32x16 scale = set1(1.0f / __builtin_sqrtf(variance + epsilon));
  for (int64_t k = 0; k < channels; k += kLanes) {
    const F32x16 y = fma((row(x, k) - mean) * scale, row(weight, k), row(bias, k));
    k < whole ? store(out + k, y) : store_first(out + k, y, left);
  }
}

}  // namespace
}  // namespace gpt2kit
