// The bfloat16 products, written once over Pairs and compiled for each instruction set. See
// bfloat16_kernels.h for what each computes and in what order.

#pragma once

#include <algorithm>

#include "bfloat16_kernels.h"
#include "linear_simd.h"

namespace gpt2kit {
namespace {

// Sixteen pairs of bfloat16 values: the even one in the lower half of each lane of 32 bits.
#ifdef __AVX512BF16__

struct Pairs {
  __m512i v;
};

inline Pairs load_pairs(const BFloat16* p) { return {_mm512_loadu_si512(p)}; }
// The first n <= 32 values, the others zero.
inline Pairs load_first_pairs(const BFloat16* p, int64_t n) {
  return {_mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << n) - 1), p)};
}
inline void store_pairs(BFloat16* p, Pairs a) { _mm512_storeu_si512(p, a.v); }
inline Pairs set1_pair(const BFloat16* p) {
  int pair;
  std::memcpy(&pair, p, 4);
  return {_mm512_set1_epi32(pair)};
}
// (even[i], odd[i]) for i < n <= 16; odd may be null for zeros.
inline Pairs interleave(const BFloat16* even, const BFloat16* odd, int64_t n) {
  const auto halves = [n](const BFloat16* p) {
    return _mm512_cvtepu16_epi32(n == kLanes ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))
                                             : _mm256_maskz_loadu_epi16(first(n), p));
  };
  const __m512i low = halves(even);
  return {odd ? _mm512_or_si512(low, _mm512_slli_epi32(halves(odd), 16)) : low};
}
struct TwoPairs {
  Pairs first, second;
};
// The same for 32 columns.
inline TwoPairs interleave(const BFloat16* even, const BFloat16* odd) {
  // Per half of 16 columns: words 0, 32, 1, 33, ... of both rows, as pairs of words in 32 bits.
  const __m512i lower =
      _mm512_setr_epi32(0x200000, 0x210001, 0x220002, 0x230003, 0x240004, 0x250005, 0x260006, 0x270007,
                        0x280008, 0x290009, 0x2a000a, 0x2b000b, 0x2c000c, 0x2d000d, 0x2e000e, 0x2f000f);
  const __m512i upper = _mm512_add_epi32(lower, _mm512_set1_epi32(0x100010));
  const __m512i a = _mm512_loadu_si512(even), b = _mm512_loadu_si512(odd);
  return {{_mm512_permutex2var_epi16(a, lower, b)}, {_mm512_permutex2var_epi16(a, upper, b)}};
}
inline F32x16 dot(Pairs x, Pairs w, F32x16 sum) {
  return {_mm512_dpbf16_ps(sum.v, reinterpret_cast<__m512bh>(x.v), reinterpret_cast<__m512bh>(w.v))};
}

// The instruction flushes subnormals by itself.
struct FlushSubnormals {
  FlushSubnormals() {}
};

#else

struct Pairs {
  __m256i lo, hi;
};

inline Pairs load_pairs(const BFloat16* p) {
  const auto* halves = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)};
}
inline Pairs load_first_pairs(const BFloat16* p, int64_t n) {
  BFloat16 values[2 * kLanes] = {};
  std::memcpy(values, p, static_cast<size_t>(n) * sizeof(BFloat16));
  return load_pairs(values);
}
inline void store_pairs(BFloat16* p, Pairs a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.lo);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p) + 1, a.hi);
}
inline Pairs set1_pair(const BFloat16* p) {
  int pair;
  std::memcpy(&pair, p, 4);
  const __m256i v = _mm256_set1_epi32(pair);
  return {v, v};
}
inline Pairs interleave(const BFloat16* even, const BFloat16* odd, int64_t n) {
  const auto halves = [n](const BFloat16* p) {
    BFloat16 values[kLanes] = {};
    if (p) std::memcpy(values, p, static_cast<size_t>(n) * sizeof(BFloat16));
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
  };
  const auto whole = [](const BFloat16* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  };
  const bool simple = n == kLanes && odd;
  const __m256i a = simple ? whole(even) : halves(even), b = simple ? whole(odd) : halves(odd);
  const __m256i low = _mm256_unpacklo_epi16(a, b), high = _mm256_unpackhi_epi16(a, b);
  return {_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31)};
}
struct TwoPairs {
  Pairs first, second;
};
inline TwoPairs interleave(const BFloat16* even, const BFloat16* odd) {
  return {interleave(even, odd, kLanes), interleave(even + kLanes, odd + kLanes, kLanes)};
}
inline F32x16 even(Pairs a) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(a.lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(a.hi, 16))};
}
inline F32x16 odd(Pairs a) {
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  return {_mm256_castsi256_ps(_mm256_and_si256(a.lo, upper)),
          _mm256_castsi256_ps(_mm256_and_si256(a.hi, upper))};
}
// Within FlushSubnormals.
inline F32x16 dot(Pairs x, Pairs w, F32x16 sum) { return fma(even(x), even(w), fma(odd(x), odd(w), sum)); }

// While it lives this thread's arithmetic takes and gives zeros for subnormals. What must do so stands in
// functions of its own that are not inlined, so that the compiler moves nothing across.
class FlushSubnormals {
 public:
  FlushSubnormals() : old_(_mm_getcsr()) {
    constexpr unsigned kFlushToZero = 0x8000, kDenormalsAreZero = 0x40;
    _mm_setcsr(old_ | kFlushToZero | kDenormalsAreZero);
  }
  ~FlushSubnormals() { _mm_setcsr(old_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  const unsigned old_;
};

#endif

inline void round_all(BFloat16* out, const float* x, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_rounded(out + i, load(x + i), kLanes);
  if (i < n) store_rounded(out + i, load_first(x + i, n - i), n - i);
}

// Finishes n <= 16 columns of one row.
inline void finish(BFloat16* out, F32x16 sum, const float* bias, const Epilogue& epilogue, int64_t n) {
  if (bias) sum = sum + (n == kLanes ? load(bias) : load_first(bias, n));
  store_rounded(out, activate(sum, epilogue.activation), n);
}

template <int kRows, int kVectors>
inline void finish_tile(BFloat16* out, int64_t out_stride, const F32x16 (&sums)[kRows][kVectors],
                        const float* bias, const Epilogue& epilogue, int64_t width) {
  finish_tile(
      out, out_stride, sums, bias, epilogue.activation, width,
      [](BFloat16* o, F32x16 y) { store_rounded(o, y, kLanes); },
      [&](BFloat16* o, F32x16 sum, const float* b, int64_t n) { finish(o, sum, b, epilogue, n); });
}

// Calls body(out) with the type of out that the epilogue means.
template <typename Body>
inline void with_out(void* out, const Epilogue& epilogue, const Body& body) {
  epilogue.round_out ? body(static_cast<BFloat16*>(out)) : body(static_cast<float*>(out));
}

// The row that the next product reads ends with a zero.
inline void finish_odd_rows(void* out, int64_t out_stride, int64_t rows, int64_t end,
                            const Epilogue& epilogue) {
  if (!epilogue.round_out || end % 2 == 0) return;
  for (int64_t b = 0; b < rows; ++b) static_cast<BFloat16*>(out)[b * out_stride + end] = {0};
}

// ---- linear ----

// Steps are pairs of features.
struct PairsFormat {
  using X = BFloat16;
  using Weight = BFloat16;
  using Column = Pairs;
  using Factor = Pairs;
  using Flush = FlushSubnormals;
  static constexpr int kFeatures = 2;

  static void pack(float* line, int64_t stride, const BFloat16* w, int64_t w_stride, int64_t features,
                   int64_t columns) {
    const BFloat16* odd_row = features > 1 ? w + w_stride : nullptr;
    for (; columns > 0; columns -= kTileColumns, line += stride, w += kTileColumns) {
      auto* pairs = reinterpret_cast<BFloat16*>(line);
#ifdef __AVX512F__
      if (odd_row && columns >= kTileColumns) {
        const TwoPairs both = interleave(w, odd_row);
        store_pairs(pairs, both.first);
        store_pairs(pairs + 2 * kLanes, both.second);
        odd_row += kTileColumns;
        continue;
      }
#endif
      for (int v = 0; v < kTileVectors; ++v) {
        const int64_t n = std::clamp<int64_t>(columns - v * kLanes, 0, kLanes);
        store_pairs(pairs + v * 2 * kLanes,
                    interleave(w + v * kLanes, odd_row ? odd_row + v * kLanes : nullptr, n));
      }
      if (odd_row) odd_row += kTileColumns;
    }
  }
  static Column load_column(const float* p) { return load_pairs(reinterpret_cast<const BFloat16*>(p)); }
  static Factor broadcast(const BFloat16* x) { return set1_pair(x); }
  static F32x16 add(Factor factor, Column column, F32x16 sum) { return dot(factor, column, sum); }
};

inline void linear_of_pairs(void* out, int64_t out_stride, const BFloat16* x, int64_t x_stride,
                            const void* weights, int64_t w_stride, int64_t rows, int64_t in_features,
                            int64_t begin, int64_t end, const Epilogue& epilogue, float* scratch) {
  for (int64_t row0 = 0; row0 < rows; row0 += kLinearRows) {
    const auto finish = [&](const auto& sums, int64_t row, int64_t n, int64_t width) {
      with_out(out, epilogue, [&](auto* o) {
        finish_tile(o + (row0 + row) * out_stride + n, out_stride, sums,
                    epilogue.bias ? epilogue.bias + n : nullptr, epilogue, width);
      });
    };
    linear_in_blocks<PairsFormat>(x + row0 * x_stride, x_stride, static_cast<const BFloat16*>(weights),
                                  w_stride, std::min(kLinearRows, rows - row0), in_features,
                                  half_of_pairs(in_features), begin, end, scratch, finish);
  }
  finish_odd_rows(out, out_stride, rows, end, epilogue);
}

// Few rows: kUnroll pairs of rows of weights go by a stripe of sums that stays in the first-level cache.
template <int kUnroll>
inline void add_pairs(float* sums, int64_t sums_stride, const BFloat16* x, int64_t x_stride,
                      const BFloat16* w, int64_t w_stride, int64_t rows, int64_t width, bool has_odd) {
  const int64_t ahead = std::max<int64_t>(1, kAheadBytes / (4 * w_stride * kUnroll)) * 2 * kUnroll * w_stride;
  for (int64_t n = 0; n < width; n += kLanes) {
    const int64_t left = std::min<int64_t>(kLanes, width - n);
    Pairs weight[kUnroll];
#pragma GCC unroll 4
    for (int u = 0; u < kUnroll; ++u) {
      const BFloat16* row = w + 2 * u * w_stride + n;
      weight[u] = interleave(row, has_odd ? row + w_stride : nullptr, left);
      if (n % (2 * kLanes) == 0) {
        prefetch_once(row + ahead);
        prefetch_once(row + ahead + w_stride);
      }
    }
    for (int64_t b = 0; b < rows; ++b) {
      float* s = sums + b * sums_stride + n;
      F32x16 sum = left == kLanes ? load(s) : load_first(s, left);
#pragma GCC unroll 4
      for (int u = 0; u < kUnroll; ++u) sum = dot(set1_pair(x + b * x_stride + 2 * u), weight[u], sum);
      left == kLanes ? store(s, sum) : store_first(s, sum, left);
    }
  }
}

GPT2KIT_APART void add_all_pairs(float* sums, int64_t sums_stride, const BFloat16* x, int64_t x_stride,
                                 const BFloat16* w, int64_t w_stride, int64_t rows, int64_t k_begin,
                                 int64_t k_end, int64_t begin, int64_t end) {
  constexpr int64_t kStripeFloats = 6144;  // 24 KiB of sums, half of a 48 KiB cache
  const int64_t stripe = std::max<int64_t>(32, kStripeFloats / rows / 32 * 32);
  constexpr int kUnroll = 4;
  for (int64_t n0 = begin; n0 < end; n0 += stripe) {
    const int64_t width = std::min(stripe, end - n0);
    for (int64_t b = 0; b < rows; ++b) std::fill_n(sums + b * sums_stride + n0, width, 0.0f);
    int64_t k = k_begin;
    for (; k + 2 * kUnroll <= k_end; k += 2 * kUnroll)
      add_pairs<kUnroll>(sums + n0, sums_stride, x + k, x_stride, w + k * w_stride + n0, w_stride, rows,
                         width, true);
    for (; k < k_end; k += 2)
      add_pairs<1>(sums + n0, sums_stride, x + k, x_stride, w + k * w_stride + n0, w_stride, rows, width,
                   k + 1 < k_end);
  }
}

inline void partial_sums_of_pairs(float* sums, int64_t sums_stride, const BFloat16* x, int64_t x_stride,
                                  const void* w, int64_t w_stride, int64_t rows, int64_t k_begin,
                                  int64_t k_end, int64_t begin, int64_t end) {
  const FlushSubnormals flush;
  add_all_pairs(sums, sums_stride, x, x_stride, static_cast<const BFloat16*>(w), w_stride, rows, k_begin,
                k_end, begin, end);
}

inline void finish_sums_of_pairs(void* out, int64_t out_stride, const float* first, const float* second,
                                 int64_t sums_stride, int64_t rows, int64_t begin, int64_t end,
                                 const Epilogue& epilogue) {
  for (int64_t b = 0; b < rows; ++b) {
    for (int64_t n = begin; n < end; n += kLanes) {
      const int64_t left = std::min<int64_t>(kLanes, end - n), i = b * sums_stride + n;
      const F32x16 sum = left == kLanes ? load(first + i) + load(second + i)
                                        : load_first(first + i, left) + load_first(second + i, left);
      with_out(out, epilogue, [&](auto* o) {
        finish(o + b * out_stride + n, sum, epilogue.bias ? epilogue.bias + n : nullptr, epilogue, left);
      });
    }
  }
  finish_odd_rows(out, out_stride, rows, end, epilogue);
}

// ---- project ----

template <int kRows, int kWords>
GPT2KIT_APART void project_pairs(F32x16 (&out)[kRows][kWords], const BFloat16* x, int64_t x_stride,
                                 const BFloat16* w, int64_t channels) {
  F32x16 sums[kRows][kWords];
  for (auto& row : sums)
    for (auto& sum : row) sum = zero();
  const int64_t whole = channels / (2 * kLanes) * (2 * kLanes), left = channels - whole;
  for (int64_t k = 0; k < whole; k += 2 * kLanes) {
    Pairs a[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) a[r] = load_pairs(x + r * x_stride + k);
#pragma GCC unroll 6
    for (int v = 0; v < kWords; ++v) {
      const Pairs weight = load_pairs(w + v * channels + k);
      if (kRows == 1 && kWords == 1) prefetch_once(w + k + kAheadBytes / 2);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) sums[r][v] = dot(a[r], weight, sums[r][v]);
    }
  }
  if (left) {
    for (int v = 0; v < kWords; ++v) {
      const Pairs weight = load_first_pairs(w + v * channels + whole, left);
      for (int r = 0; r < kRows; ++r)
        sums[r][v] = dot(load_first_pairs(x + r * x_stride + whole, left), weight, sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kWords; ++v) out[r][v] = sums[r][v];
}

template <int kRows, int kWords>
inline void project_pairs_to(float* out, int64_t out_stride, const BFloat16* x, int64_t x_stride,
                             const BFloat16* w, int64_t channels) {
  F32x16 sums[kRows][kWords];
  {
    const FlushSubnormals flush;
    project_pairs(sums, x, x_stride, w, channels);
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kWords; ++v) out[r * out_stride + v] = reduce_add(sums[r][v]);
}

inline void project_of_pairs(float* out, int64_t out_stride, const BFloat16* x, int64_t x_stride,
                             const void* weights, int64_t rows, int64_t channels, int64_t begin,
                             int64_t end) {
  const auto* w = static_cast<const BFloat16*>(weights);
#ifdef __AVX512F__
  constexpr int64_t kWords = 6;
#else
  constexpr int64_t kWords = 2;
#endif
  constexpr int64_t kRowsBlock = 128, kWordsBlock = 60;  // both stay in the second-level cache
  for (int64_t b0 = 0; b0 < rows; b0 += kRowsBlock) {
    const int64_t b1 = std::min(rows, b0 + kRowsBlock);
    for (int64_t v0 = begin; v0 < end; v0 += kWordsBlock) {
      const int64_t v1 = std::min(end, v0 + kWordsBlock);
      const auto all_rows = [&](auto words, int64_t v) {
        constexpr int kCount = decltype(words)::value;
        int64_t b = b0;
        for (; b + 4 <= b1; b += 4)
          project_pairs_to<4, kCount>(out + b * out_stride + v, out_stride, x + b * x_stride, x_stride,
                                      w + v * channels, channels);
        for (; b < b1; ++b)
          project_pairs_to<1, kCount>(out + b * out_stride + v, out_stride, x + b * x_stride, x_stride,
                                      w + v * channels, channels);
      };
      int64_t v = v0;
      // A single row reads one word after another, as memory likes it.
      for (; rows > 1 && v + kWords <= v1; v += kWords) all_rows(RowCount<kWords>{}, v);
      for (; v < v1; ++v) all_rows(RowCount<1>{}, v);
    }
  }
}

constexpr BFloat16Kernels kBFloat16Kernels = {round_all, linear_of_pairs, partial_sums_of_pairs,
                                              finish_sums_of_pairs, project_of_pairs};

}  // namespace
}  // namespace gpt2kit
