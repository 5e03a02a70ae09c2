// The fast kernels of kernels_int8.h, written once over F32x16 and I32x16. See there for what each computes,
// kernels_int8_reference.cpp for the plain form.

#pragma once

#include <type_traits>

#include "kernels_simd.h"
#include "simd_int8.h"

namespace gpt2kit {
namespace {

inline void quantize_int8_group(const Int8Rows& rows, const float* x, int64_t row, int64_t group,
                                int64_t in_features) {
  constexpr int kVectors = kInt8Group / kLanes;
  const int64_t left = in_features - group * kInt8Group, place = row * int8_groups(in_features) + group;
  F32x16 values[kVectors];
  I32x16 bits = set1_int(0);
  for (int v = 0; v < kVectors; ++v) {
    const int64_t n = left - v * kLanes;
    values[v] = n >= kLanes ? load(x + v * kLanes) : n > 0 ? load_first(x + v * kLanes, n) : zero();
    bits = max(bits, magnitude_bits(values[v]));
  }
  alignas(64) int32_t lanes[kLanes];
  store(lanes, bits);
  const int32_t largest_bits = *std::max_element(lanes, lanes + kLanes);
  const float largest = float_from_bits(static_cast<uint32_t>(largest_bits));
  const bool is_finite = largest_bits < 0x7f800000, is_scaled = is_finite && largest >= kInt8Least;
  rows.scales[place] = is_scaled ? largest / 32767.0f : is_finite ? 0.0f : __builtin_nanf("");
  const F32x16 steps = set1(is_scaled ? 32767.0f / largest : 0.0f);
  I32x16 sum = set1_int(0);
  for (int v = 0; v < kVectors; ++v) {
    const I32x16 rounded = is_scaled ? round_to_int(values[v] * steps) : set1_int(0);
    sum = sum + rounded;
    store_fours(rows.values + row * rows.stride + group * kInt8Group + v * kLanes, rounded);
  }
  store(lanes, sum);
  int32_t total = 0;
  for (const int32_t lane : lanes) total += lane;
  rows.starts[place] = -128 * total;
}

inline void quantize_int8(const Int8Rows& rows, const float* x, int64_t x_stride, int64_t in_features,
                          int64_t begin, int64_t end) {
  const int64_t groups = int8_groups(in_features);
  for (int64_t b = begin; b < end; ++b) {
    for (int64_t g = 0; g < groups; ++g)
      quantize_int8_group(rows, x + b * x_stride + g * kInt8Group, b, g, in_features);
  }
}

// Calls body(rows_constant, first_row) over tiles of at most kMost rows that differ by one row at most: a
// short tile costs nearly as much as a full one.
template <int kMost, typename Body>
inline void for_even_tile(int64_t row, int64_t rows, const Body& body) {
  if constexpr (kMost > 1) {
    if (rows < kMost) return for_even_tile<kMost - 1>(row, rows, body);
  }
  body(RowCount<kMost>{}, row);
}

template <int kMost, typename Body>
inline void for_even_tiles(int64_t rows, const Body& body) {
  const int64_t tiles = (rows + kMost - 1) / kMost;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t row = rows * i / tiles;
    for_even_tile<kMost>(row, rows * (i + 1) / tiles - row, body);
  }
}

// A panel's weights as a tile reads them: eight inputs at a time, as four pairs that meet those of a row of
// activations. kernels_nf4_simd.h has the same for NF4.
class Int8Weights {
 public:
  using Matrix = Int8Matrix;
  static constexpr int kLines = 2;  // of eight inputs

  Int8Weights(const Int8Matrix& w, int64_t panel) : scales_(w.panel_scales(panel)) {}

  template <int kPair>
  I32x16 pair(const uint8_t* lines) const {
    const I32x16 line = load_bytes(lines + kPair / 2 * kInt8LineBytes);
    return kPair % 2 ? odd_bytes(line) : even_bytes(line);
  }
  static int32_t start(const Int8Rows& x, int64_t place) { return x.starts[place]; }
  F32x16 scale(int64_t group) const { return load(scales_ + group * kInt8Panel); }  // in the order of groups

 private:
  const BFloat16* scales_;
};

// Rows [row, row + kRows) times kPanels panels. The pairs go in turn to kChains sums of their own where few
// rows would leave the multipliers waiting for one another.
template <typename Weights, int kRows, int kPanels, int kChains>
inline void multiply_tile(float* out, int64_t out_stride, const Int8Rows& x,
                          const typename Weights::Matrix& w, int64_t row, int64_t panel,
                          const Epilogue& epilogue) {
  constexpr int64_t kInputs = 2 * kInt8LineInputs;
  const int64_t groups = w.groups();
  const int64_t panel_bytes = groups * (kInt8Group / kInputs) * Weights::kLines * kInt8LineBytes;
  Weights weights[2] = {{w, panel}, {w, panel + kPanels - 1}};
  const uint8_t* codes = w.panel_codes(panel);
  const int16_t* values = x.values + row * x.stride;
  const int64_t ahead = row == 0 ? kAheadBytes : 0;  // later rows find the panel in the cache
  F32x16 totals[kRows][kPanels];
  for (auto& of_row : totals)
    for (auto& total : of_row) total = zero();
  for (int64_t g = 0; g < groups; ++g) {
    I32x16 sums[kChains][kRows][kPanels];
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const I32x16 start = set1_int(Weights::start(x, (row + r) * groups + g));
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) {
        sums[0][r][p] = start;
#pragma GCC unroll 4
        for (int c = 1; c < kChains; ++c) sums[c][r][p] = set1_int(0);
      }
    }
    for (int64_t eight = 0; eight < kInt8Group / kInputs; ++eight) {
      const auto add_half = [&](auto half) {
        constexpr int kHalf = decltype(half)::value;
        I32x16 even[kPanels], odd[kPanels];
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p) {
          const uint8_t* lines = codes + p * panel_bytes;
          if (kHalf < Weights::kLines) {
            const uint8_t* line = lines + kHalf * kInt8LineBytes;
            kRows == 1 ? prefetch_once(line + kAheadBytes) : prefetch(line + ahead);
          }
          even[p] = weights[p].template pair<2 * kHalf>(lines);
          odd[p] = weights[p].template pair<2 * kHalf + 1>(lines);
        }
#pragma GCC unroll 12
        for (int r = 0; r < kRows; ++r) {
          const int16_t* four = values + r * x.stride + kHalf * kInt8LineInputs;
          const I32x16 first = set1_pair(four), second = set1_pair(four + 2);
#pragma GCC unroll 2
          for (int p = 0; p < kPanels; ++p) {
            I32x16& sum = sums[2 * kHalf % kChains][r][p];
            sum = add_products(sum, even[p], first);
            I32x16& other = sums[(2 * kHalf + 1) % kChains][r][p];
            other = add_products(other, odd[p], second);
          }
        }
      };
      add_half(std::integral_constant<int, 0>{});
      add_half(std::integral_constant<int, 1>{});
      codes += Weights::kLines * kInt8LineBytes;
      values += kInputs;
    }
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      const F32x16 weight_scale = weights[p].scale(g);
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
        I32x16 sum = sums[0][r][p];
#pragma GCC unroll 4
        for (int c = 1; c < kChains; ++c) sum = sum + sums[c][r][p];
        const F32x16 scale = weight_scale * set1(x.scales[(row + r) * groups + g]);
        totals[r][p] = fma(scale, to_float(sum), totals[r][p]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int p = 0; p < kPanels; ++p) {
      const int64_t n = (panel + p) * kInt8Panel;
      finish(out + (row + r) * out_stride + n, totals[r][p], epilogue.bias ? epilogue.bias + n : nullptr,
             epilogue, std::min<int64_t>(kLanes, w.out_features - n));
    }
  }
}

template <typename Weights>
inline void multiply_panels(float* out, int64_t out_stride, const Int8Rows& x,
                            const typename Weights::Matrix& w, int64_t rows, int64_t begin, int64_t end,
                            const Epilogue& epilogue) {
#ifdef __AVX512VNNI__
  constexpr int kRowsOfTile = 10, kPanelsOfTile = 2;  // 20 sums, 4 registers of weights, 2 of activations
  constexpr int kChainsOfRow = 4;
#else
  constexpr int kRowsOfTile = 3, kPanelsOfTile = 1;
  constexpr int kChainsOfRow = 1;  // of two registers each, of which there are 16
#endif
  if (rows == 1) {
    for (int64_t panel = begin; panel < end; ++panel)
      multiply_tile<Weights, 1, 1, kChainsOfRow>(out, out_stride, x, w, 0, panel, epilogue);
    return;
  }
  constexpr int64_t kBlockBytes = 384 * 1024;  // of activations, which stay in the second-level cache
  const int64_t fitting = kBlockBytes / (x.stride * static_cast<int64_t>(sizeof(int16_t)));
  const int64_t block = std::max<int64_t>(1, fitting / kRowsOfTile) * kRowsOfTile;
  for (int64_t b0 = 0; b0 < rows; b0 += block) {
    const int64_t count = std::min(block, rows - b0);
    for (int64_t panel = begin; panel < end; panel += kPanelsOfTile) {
      for_even_tiles<kRowsOfTile>(count, [&](auto tile, int64_t row) {
        constexpr int kRows = decltype(tile)::value;
        constexpr int kChains = kRows * kPanelsOfTile > 8 ? 1 : 2;
        if (panel + kPanelsOfTile <= end) {
          multiply_tile<Weights, kRows, kPanelsOfTile, kChains>(out, out_stride, x, w, b0 + row, panel,
                                                                epilogue);
        } else {
          multiply_tile<Weights, kRows, 1, kChains>(out, out_stride, x, w, b0 + row, panel, epilogue);
        }
      });
    }
  }
}

inline void unpack_int8(float* out, int64_t stride, const Int8Matrix& w, int64_t panel) {
  const uint8_t* codes = w.panel_codes(panel);
  const BFloat16* scales = w.panel_scales(panel);
  for (int64_t i = 0; i < w.in_features; i += kInt8LineInputs) {
    const F32x16 scale = load(scales + i / kInt8Group * kInt8Panel);
    const I32x16 line = load_bytes(codes + i / kInt8LineInputs * kInt8LineBytes);
    const int64_t left = w.in_features - i;
    float* o = out + i * stride;
    store(o, to_float(signed_byte<0>(line)) * scale);
    if (left > 1) store(o + stride, to_float(signed_byte<1>(line)) * scale);
    if (left > 2) store(o + 2 * stride, to_float(signed_byte<2>(line)) * scale);
    if (left > 3) store(o + 3 * stride, to_float(signed_byte<3>(line)) * scale);
  }
}

}  // namespace
}  // namespace gpt2kit
