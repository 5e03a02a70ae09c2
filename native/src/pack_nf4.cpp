#include "pack_nf4.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "thread_pool.h"

namespace gpt2kit {
namespace {

constexpr int64_t kOutputBytes = kNf4LineInputs / 2;  // of a line
constexpr int64_t kBlockPanels = 8;                   // that are packed together: short pieces read slowly
constexpr uint32_t kZero = 7;                         // the code of 0

// Matrices below this many weights are packed sooner than a thread is there.
constexpr int64_t kAloneWeights = int64_t{1} << 17;

// Halfway between two neighbours of kNf4Values; a weight in the middle has the lower code.
struct Middles {
  float values[15];
};

constexpr Middles middles() {
  Middles m{};
  for (int i = 0; i < 15; ++i) m.values[i] = (kNf4Values[i] + kNf4Values[i + 1]) / 2.0f;
  return m;
}
constexpr Middles kMiddles = middles();

void store_line(uint8_t* line, const uint32_t* words) {
  for (int64_t j = 0; j < kInt8Panel; ++j) {
    for (int64_t b = 0; b < kOutputBytes; ++b)
      line[j * kOutputBytes + b] = static_cast<uint8_t>(words[j] >> b * 8);
  }
}

// A group of a panel: weights (64, 16), as rows of outputs `stride` apart.
void pack_group(uint8_t* lines, const float* weights, int64_t stride, const float* factors) {
  for (int64_t eight = 0; eight < kInt8Group / kNf4LineInputs; ++eight) {
    alignas(64) uint32_t words[kInt8Panel] = {};
    for (int64_t k = 0; k < kNf4LineInputs; ++k, weights += stride) {
      const int shift = nf4_shift(k);
      for (int64_t j = 0; j < kInt8Panel; ++j) {
        const float scaled = weights[j] * factors[j];
        uint32_t code = 0;
#pragma GCC unroll 15
        for (int m = 0; m < 15; ++m) code += scaled > kMiddles.values[m];
        words[j] |= code << shift;
      }
    }
    store_line(lines + eight * kInt8LineBytes, words);
  }
}

// Panels [begin, end), at most kBlockPanels.
bool pack_panels(uint8_t* codes, float* scales, const FloatMatrix& matrix, const Kernels& kernels,
                 int64_t begin, int64_t end) {
  constexpr int64_t kWidth = kBlockPanels * kInt8Panel;
  constexpr float kSmallest = 1e-38f;  // divisor of a block of zeros
  constexpr int32_t kInfinite = 0x7f800000;
  alignas(64) float weights[kInt8Group][kWidth], factors[kWidth];
  alignas(64)
      int32_t largest[kWidth];  // magnitudes as integers: the order is the same, what is not finite last
  const int64_t groups = matrix.in_features / kInt8Group, O = matrix.out_features;
  const int64_t first = begin * kInt8Panel, width = (end - begin) * kInt8Panel,
                present = std::min(O - first, width);
  bool is_sound = true;
  for (int64_t group = 0; group < groups; ++group) {
    std::fill_n(largest, width, 0);
    for (int64_t i = 0; i < kInt8Group; ++i) {
      float* row = weights[i];
      const int64_t from = (group * kInt8Group + i) * O + first;
      if (matrix.values.dtype == Dtype::kFloat32) {
        std::memcpy(row, matrix.values.at(from), static_cast<size_t>(present) * sizeof(float));
      } else {
        kernels.reading(matrix.values.dtype).widen(row, matrix.values.at(from), present);
      }
      std::fill(row + present, row + width, 0.0f);
      for (int64_t j = 0; j < width; ++j) {
        int32_t magnitude;
        std::memcpy(&magnitude, row + j, 4);
        magnitude &= 0x7fffffff;
        largest[j] = magnitude > largest[j] ? magnitude : largest[j];
      }
    }
    for (int64_t j = 0; j < width; ++j) {
      const float scale = float_from_bits(static_cast<uint32_t>(largest[j]));
      is_sound = is_sound && largest[j] < kInfinite;
      factors[j] = 1.0f / std::max(scale, kSmallest);
      scales[((begin + j / kInt8Panel) * groups + group) * kInt8Panel + j % kInt8Panel] = scale;
    }
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t block = panel * groups + group, at = (panel - begin) * kInt8Panel;
      pack_group(codes + block * (kInt8Group * kInt8Panel / 2), weights[0] + at, kWidth, factors + at);
    }
  }
  return is_sound;
}

void repack_panel(uint8_t* codes, const uint8_t* stored, int64_t in_features, int64_t out_features,
                  int64_t panel) {
  const int64_t eights = in_features / kNf4LineInputs;
  for (int64_t eight = 0; eight < eights; ++eight) {
    uint32_t words[kInt8Panel];
    for (int64_t j = 0; j < kInt8Panel; ++j) {
      const int64_t output = panel * kInt8Panel + j;
      const uint8_t* pairs =
          output < out_features ? stored + (output * eights + eight) * kOutputBytes : nullptr;
      words[j] = 0;
      for (int64_t k = 0; k < kNf4LineInputs; ++k) {
        const uint32_t code = pairs ? pairs[k / 2] >> (k % 2 ? 0 : 4) & 15u : kZero;
        words[j] |= code << nf4_shift(k);
      }
    }
    store_line(codes + (panel * eights + eight) * kInt8LineBytes, words);
  }
}

// Calls body(begin, end) over all panels, `step` at a time.
template <typename Body>
void share_panels(int64_t in_features, int64_t out_features, int64_t step, int threads, const Body& body) {
  const int64_t panels = int8_panels(out_features);
  std::atomic<int64_t> next{0};
  const auto work = [&](int) {
    for (int64_t panel; (panel = next.fetch_add(step)) < panels;) body(panel, std::min(panel + step, panels));
  };
  if (threads == 1 || in_features * out_features < kAloneWeights) {
    work(0);
  } else {
    ThreadPool(threads).run(threads, work);
  }
}

}  // namespace

bool pack_nf4(uint8_t* codes, float* scales, const FloatMatrix& matrix, const Kernels& kernels, int threads) {
  std::atomic<bool> is_sound{true};
  share_panels(matrix.in_features, matrix.out_features, kBlockPanels, threads,
               [&](int64_t begin, int64_t end) {
                 if (!pack_panels(codes, scales, matrix, kernels, begin, end)) is_sound = false;
               });
  return is_sound;
}

void repack_nf4(uint8_t* codes, const uint8_t* stored, int64_t in_features, int64_t out_features,
                int threads) {
  share_panels(in_features, out_features, 1, threads, [&](int64_t panel, int64_t) {
    repack_panel(codes, stored, in_features, out_features, panel);
  });
}

}  // namespace gpt2kit
