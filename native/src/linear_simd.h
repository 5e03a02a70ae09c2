// Products of many rows with a matrix, for every format of its weights, blocked for the caches. Which numbers
// are multiplied, and in what order they are added, a format says; see kernels.h and bfloat16_kernels.h.
//
// Columns go in groups of a few panels of kTileColumns, and each of the two chains of features in chunks. A
// panel of a chunk stays in the first-level cache while it meets every row, a chunk of all rows in the
// second. Sums wait in memory from one chunk to the next. While one block of weights is multiplied, the next
// is fetched and packed, a few rows of weights for each tile: the lines of a whole block, as far apart as the
// rows of a matrix, would crowd into a few sets of a cache.

#pragma once

#include <algorithm>

#include "kernels_simd.h"

namespace gpt2kit {
namespace {

// See FlushSubnormals in bfloat16_simd.h.
#define GPT2KIT_APART __attribute__((noinline))

constexpr int64_t kGroupPanels = kGroupColumns / kTileColumns;

// A format has
//   X, Weight             the types of activations and weights
//   kFeatures             how many features a step of a chain takes: a line of a panel holds so many of
//                         kTileColumns columns, in kTileColumns * 4 bytes
//   pack(line, stride, w, w_stride, features, columns)
//                         packs the next step's weights of some columns of w into lines `stride` floats
//                         apart, those behind the columns, or behind the features, zero
//   Column, load_column   what a register of a line holds
//   Factor, broadcast     a row's activations of a step, in every lane
//   add(factor, column, sum)
//   Flush                 what lives while chains are added

template <typename Format>
struct Chunk {
  int64_t begin, steps;  // its first feature; how many steps
  int chain;
  bool starts_chain;
};

// Chunk i of the two chains, which are cut evenly. The first chain ends before feature `middle`.
template <typename Format>
inline int64_t chunks_of(int64_t features) {
  return std::max<int64_t>(
      1, (features + kChunkSteps * Format::kFeatures - 1) / (kChunkSteps * Format::kFeatures));
}
template <typename Format>
inline Chunk<Format> chunk_at(int64_t i, int64_t middle, int64_t in_features) {
  const int64_t in_first = chunks_of<Format>(middle);
  const int chain = i >= in_first;
  const int64_t from = chain ? middle : 0, to = chain ? in_features : middle;
  const int64_t chunks = chain ? chunks_of<Format>(to - from) : in_first, number = chain ? i - in_first : i;
  const int64_t steps = (to - from + Format::kFeatures - 1) / Format::kFeatures;
  const int64_t first_step = steps * number / chunks;
  return {from + first_step * Format::kFeatures, steps * (number + 1) / chunks - first_step, chain,
          number == 0};
}

// A block of weights on its way into panels: steps [packed, steps) are still to be packed.
template <typename Format>
struct Packing {
  using Weight = typename Format::Weight;
  float* panels = nullptr;
  const Weight* w = nullptr;  // the first step's first column
  int64_t w_stride = 0, features = 0, steps = 0, columns = 0, packed = 0, fetched = 0;

  void pack(int64_t until) {
    constexpr int F = Format::kFeatures;
    for (; packed < until; ++packed)
      Format::pack(panels + packed * kTileColumns, steps * kTileColumns, w + packed * F * w_stride, w_stride,
                   features - packed * F, columns);
  }
  void fetch(int64_t until) {
    constexpr int64_t kLineColumns = kLine / static_cast<int64_t>(sizeof(Weight));
    const int64_t end = std::min(features, until * Format::kFeatures);
    for (; fetched < end; ++fetched)
      for (int64_t n = 0; n < columns; n += kLineColumns) prefetch(w + fetched * w_stride + n);
  }
};

// to[r][n] = from[r][n] (zero if null) + a[r] . panel[n]: one chain for each.
template <typename Format, int kRows>
GPT2KIT_APART void add_tile(float* to, const float* from, const typename Format::X* a, int64_t a_stride,
                            const float* panel, int64_t steps) {
  F32x16 sums[kRows][kTileVectors];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v)
      sums[r][v] = from ? load(from + r * kTileColumns + v * kLanes) : zero();
  for (int64_t s = 0; s < steps; ++s) {
    typename Format::Column columns[kTileVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v)
      columns[v] = Format::load_column(panel + s * kTileColumns + v * kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const typename Format::Factor factor = Format::broadcast(a + r * a_stride + s * Format::kFeatures);
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) sums[r][v] = Format::add(factor, columns[v], sums[r][v]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) store(to + r * kTileColumns + v * kLanes, sums[r][v]);
}

// Calls finish(sums, row, n0, width) for every tile of columns [begin, end), where sums[r][v] is the whole
// product of row + r.
template <typename Format, typename Finish>
inline void linear_in_blocks(const typename Format::X* x, int64_t x_stride, const typename Format::Weight* w,
                             int64_t w_stride, int64_t rows, int64_t in_features, int64_t middle,
                             int64_t begin, int64_t end, float* scratch, const Finish& finish) {
  const int64_t chunks = chunks_of<Format>(middle) + chunks_of<Format>(in_features - middle);
  const int64_t blocks = (end - begin + kGroupColumns - 1) / kGroupColumns * chunks;
  float* partial[2] = {scratch, scratch + rows * kGroupColumns};  // of each chain, [panel][row][kTileColumns]
  float* panels[2] = {partial[1] + rows * kGroupColumns,
                      partial[1] + rows * kGroupColumns + kGroupColumns * kChunkSteps};
  const auto packing_of = [&](int64_t block) {
    const Chunk<Format> chunk = chunk_at<Format>(block % chunks, middle, in_features);
    const int64_t n0 = begin + block / chunks * kGroupColumns;
    Packing<Format> packing;
    packing.panels = panels[block % 2];
    packing.w = w + chunk.begin * w_stride + n0;
    packing.w_stride = w_stride;
    packing.features = (chunk.chain ? in_features : middle) - chunk.begin;
    packing.steps = chunk.steps;
    packing.columns = std::min(kGroupColumns, end - n0);
    return packing;
  };
  Packing<Format> packing = packing_of(0);
  constexpr int64_t kBatch = 8;
  while (packing.packed < packing.steps) {
    packing.fetch(std::min(packing.steps, packing.packed + 3 * kBatch));
    packing.pack(std::min(packing.steps, packing.packed + kBatch));
  }
  for (int64_t block = 0; block < blocks; ++block) {
    const Chunk<Format> chunk = chunk_at<Format>(block % chunks, middle, in_features);
    const int64_t n0 = begin + block / chunks * kGroupColumns, width = std::min(kGroupColumns, end - n0);
    const int64_t num_panels = (width + kTileColumns - 1) / kTileColumns;
    const bool is_last = block % chunks == chunks - 1;
    packing = block + 1 < blocks ? packing_of(block + 1) : Packing<Format>{};
    for (int64_t p = 0; p < num_panels; ++p) {
      const float* panel = panels[block % 2] + p * chunk.steps * kTileColumns;
      for_row_tiles(rows, [&](auto count, int64_t row) {
        constexpr int kRows = decltype(count)::value;
        const int64_t done = p * rows + row + kRows, all = num_panels * rows;
        packing.pack(packing.steps * done / all);
        packing.fetch(std::min(packing.steps, packing.steps * (done + kTileRows) / all + 1));

        const int64_t offset = (p * rows + row) * kTileColumns;
        float* sums = partial[chunk.chain] + offset;
        alignas(kLine) float second[kRows * kTileColumns];
        {
          const typename Format::Flush flush;
          add_tile<Format, kRows>(is_last ? second : sums, chunk.starts_chain ? nullptr : sums,
                                  x + row * x_stride + chunk.begin, x_stride, panel, chunk.steps);
        }
        if (!is_last) return;
        F32x16 whole[kRows][kTileVectors];
        for (int r = 0; r < kRows; ++r)
          for (int v = 0; v < kTileVectors; ++v)
            whole[r][v] = load(partial[0] + offset + r * kTileColumns + v * kLanes) +
                          load(second + r * kTileColumns + v * kLanes);
        finish(whole, row, n0 + p * kTileColumns, std::min<int64_t>(kTileColumns, width - p * kTileColumns));
      });
    }
  }
}

// ---- float32 activations ----

template <typename W>
struct Float32Format {
  using X = float;
  using Weight = W;
  using Column = F32x16;
  using Factor = F32x16;
  struct Flush {
    Flush() {}
  };
  static constexpr int kFeatures = 1;

  static void pack(float* line, int64_t stride, const W* w, int64_t /*w_stride*/, int64_t /*features*/,
                   int64_t columns) {
    for (; columns > 0; columns -= kTileColumns, line += stride, w += kTileColumns)
      for (int v = 0; v < kTileVectors; ++v) {
        const int64_t left = columns - v * kLanes;
        const W* p = w + v * kLanes;
        store(line + v * kLanes, left >= kLanes ? load(p) : left > 0 ? load_first(p, left) : zero());
      }
  }
  static Column load_column(const float* p) { return load(p); }
  static Factor broadcast(const float* x) { return set1(*x); }
  static F32x16 add(Factor factor, Column column, F32x16 sum) { return fma(factor, column, sum); }
};

template <typename W>
inline void linear(float* out, int64_t out_stride, const float* x, int64_t x_stride, const void* w,
                   int64_t w_stride, int64_t rows, int64_t in_features, int64_t begin, int64_t end,
                   const Epilogue& epilogue, float* scratch) {
  for (int64_t row0 = 0; row0 < rows; row0 += kLinearRows) {
    const auto finish = [&](const auto& sums, int64_t row, int64_t n, int64_t width) {
      finish_tile(out + (row0 + row) * out_stride + n, out_stride, sums,
                  epilogue.bias ? epilogue.bias + n : nullptr, epilogue, width);
    };
    linear_in_blocks<Float32Format<W>>(x + row0 * x_stride, x_stride, static_cast<const W*>(w), w_stride,
                                       std::min(kLinearRows, rows - row0), in_features, half(in_features),
                                       begin, end, scratch, finish);
  }
}

template <typename W>
constexpr MatrixKernels kReading = {linear<W>, partial_sums<W>, project<W>, widen_all<W>};

}  // namespace
}  // namespace gpt2kit
