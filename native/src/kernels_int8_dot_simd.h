// The fast kernels of kernels_int8.h for activations of 8 bits, written once over F32x16 and I32x16. See
// there for what each computes, kernels_int8_reference.cpp for the plain form.

#pragma once

#include "kernels_int8_simd.h"

namespace gpt2kit {
namespace {

inline void quantize_bytes_group(const ByteRows& rows, const float* x, int64_t row, int64_t group,
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
  const int32_t largest_bits = reduce_max(bits);
  const float largest = float_from_bits(static_cast<uint32_t>(largest_bits));
  const bool is_finite = largest_bits < 0x7f800000, is_scaled = is_finite && largest >= kInt8Least;
  rows.scales[place] = is_scaled ? largest / 127.0f : is_finite ? 0.0f : __builtin_nanf("");
  const F32x16 steps = set1(is_scaled ? 127.0f / largest : 0.0f);
  I32x16 sum = set1_int(0);
  for (int v = 0; v < kVectors; ++v) {
    const I32x16 rounded = is_scaled ? round_to_int(values[v] * steps) : set1_int(0);
    sum = sum + rounded;
    store_bytes(rows.values + row * rows.stride + group * kInt8Group + v * kLanes, rounded);
  }
  rows.starts[place] = -128 * reduce_add(sum);
}

inline void quantize_bytes(const ByteRows& rows, const float* x, int64_t x_stride, int64_t in_features,
                           int64_t begin, int64_t end) {
  const int64_t groups = int8_groups(in_features);
  for (int64_t b = begin; b < end; ++b) {
    for (int64_t g = 0; g < groups; ++g)
      quantize_bytes_group(rows, x + b * x_stride + g * kInt8Group, b, g, in_features);
  }
}

// Lines of weights that a tile fetches from memory while it multiplies: so many for each of its groups.
struct Fetched {
  const uint8_t* lines;
  int64_t per_group;
};

// Rows [row, row + kRows) times kPanels panels. A group's lines go in turn to kChains sums of their own where
// few rows would leave the multipliers waiting for one another. A group is written out line by line: GCC
// moves sums that a loop carries from register to register at each turn, which halves the speed.
template <int kRows, int kPanels, int kChains>
inline void multiply_bytes_tile(float* out, int64_t out_stride, const ByteRows& x, const Int8Matrix& w,
                                int64_t row, int64_t panel, Fetched fetched, const Epilogue& epilogue) {
  constexpr int kLines = kInt8Group / kInt8LineInputs;
  const int64_t groups = w.groups(), panel_bytes = groups * kInt8Group * kInt8Panel;
  const uint8_t* codes = w.panel_codes(panel);
  const BFloat16* weight_scales = w.panel_scales(panel);
  const int8_t* values = x.values + row * x.stride;
  const float* scales = x.scales + row * groups;
  const int32_t* starts = x.starts + row * groups;
  F32x16 totals[kRows][kPanels];
  for (auto& of_row : totals)
    for (auto& total : of_row) total = zero();
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t i = 0; i < fetched.per_group; ++i, fetched.lines += kInt8LineBytes) prefetch(fetched.lines);
    I32x16 sums[kChains][kRows][kPanels];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        sums[0][r][p] = set1_int(starts[r * groups + g]);
#pragma GCC unroll 4
        for (int c = 1; c < kChains; ++c) sums[c][r][p] = set1_int(0);
      }
    }
#pragma GCC unroll 16
    for (int line = 0; line < kLines; ++line) {
      ByteLine weights[kPanels];
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p)
        weights[p] = load_line(codes + p * panel_bytes + line * kInt8LineBytes);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const FourBytes four = set1_four(values + r * x.stride + line * kInt8LineInputs);
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) {
          I32x16& sum = sums[line % kChains][r][p];
          sum = add_byte_products(sum, weights[p], four);
        }
      }
    }
    codes += kLines * kInt8LineBytes;
    values += kInt8Group;
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      const F32x16 weight_scale = load(weight_scales + (p * groups + g) * kInt8Panel);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        I32x16 sum = sums[0][r][p];
#pragma GCC unroll 4
        for (int c = 1; c < kChains; ++c) sum = sum + sums[c][r][p];
        totals[r][p] = fma(weight_scale * set1(scales[r * groups + g]), to_float(sum), totals[r][p]);
      }
    }
  }
  const int64_t n = panel * kInt8Panel;
  finish_tile(out + row * out_stride + n, out_stride, totals, epilogue.bias ? epilogue.bias + n : nullptr,
              epilogue, std::min<int64_t>(kPanels * kLanes, w.out_features - n));
}

// Panels [panel, panel + kPanels) for all rows; fetches as many panels behind them where has_next.
template <int kRowsOfTile, int kPanels>
inline void multiply_bytes_panels(float* out, int64_t out_stride, const ByteRows& x, const Int8Matrix& w,
                                  int64_t first_row, int64_t rows, int64_t panel, bool has_next,
                                  const Epilogue& epilogue) {
  const int64_t tiles = (rows + kRowsOfTile - 1) / kRowsOfTile;
  constexpr int64_t kGroupLines = kPanels * kInt8Group / kInt8LineInputs;
  const int64_t tile_lines = (kGroupLines + tiles - 1) / tiles * w.groups();
  const uint8_t* next = w.panel_codes(panel + kPanels);
  int64_t fetched = has_next ? 0 : kGroupLines * w.groups();
  for_even_tiles<kRowsOfTile>(rows, [&](auto tile, int64_t row) {
    constexpr int kRows = decltype(tile)::value;
    constexpr int kChains = kRows * kPanels >= 8 ? 1 : kRows * kPanels >= 4 ? 2 : 4;
    const int64_t lines = std::min(tile_lines, kGroupLines * w.groups() - fetched);
    multiply_bytes_tile<kRows, kPanels, kChains>(out, out_stride, x, w, first_row + row, panel,
                                                 {next + fetched * kInt8LineBytes, lines / w.groups()},
                                                 epilogue);
    fetched += lines;
  });
}

inline void multiply_bytes(float* out, int64_t out_stride, const ByteRows& x, const Int8Matrix& w,
                           int64_t rows, int64_t begin, int64_t end, const Epilogue& epilogue) {
#ifdef __AVX512VNNI__
  constexpr int kRowsOfTile = 4, kPanels = 3;  // 12 sums, 12 totals, 3 registers of weights
#else
  constexpr int kRowsOfTile = 3, kPanels = 1;
#endif
  if (rows == 1) {
    for (int64_t panel = begin; panel < end; ++panel)
      multiply_bytes_tile<1, 1, 4>(out, out_stride, x, w, 0, panel, {w.panel_codes(panel) + kAheadBytes, 16},
                                   epilogue);
    return;
  }
  constexpr int64_t kBlockBytes = 384 * 1024;  // of activations, which stay in the second-level cache
  const int64_t block = std::max<int64_t>(1, kBlockBytes / x.stride / kRowsOfTile) * kRowsOfTile;
  for (int64_t b0 = 0; b0 < rows; b0 += block) {
    const int64_t count = std::min(block, rows - b0);
    int64_t panel = begin;
    for (; panel + kPanels <= end; panel += kPanels) {
      multiply_bytes_panels<kRowsOfTile, kPanels>(out, out_stride, x, w, b0, count, panel,
                                                  panel + 2 * kPanels <= end, epilogue);
    }
    for (; panel < end; ++panel) {
      multiply_bytes_panels<kRowsOfTile, 1>(out, out_stride, x, w, b0, count, panel, panel + 2 <= end,
                                            epilogue);
    }
  }
}

}  // namespace
}  // namespace gpt2kit
