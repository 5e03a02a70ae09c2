#include "pack_int8.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "thread_pool.h"

namespace gpt2kit {
namespace {

constexpr int64_t kLines = kInt8Group / kInt8LineInputs;

// Matrices below this many weights are packed sooner than a thread is there.
constexpr int64_t kAloneWeights = int64_t{1} << 17;

// Magnitudes are compared as integers: the order is the same, and what is not finite comes last.
constexpr uint32_t kMagnitude = 0x7fffffffu;
constexpr uint32_t kLimit = 0x7e800000u;  // 2^126

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

// The scale of a group, from the bits of its largest magnitude: that / 127, rounded up.
BFloat16 scale_of(uint32_t largest) {
  return {static_cast<uint16_t>((bits_of(float_from_bits(largest) / 127.0f) + 0xffffu) >> 16)};
}

// What weights are divided by; a group of zeros has the scale zero.
float divisor_of(BFloat16 scale) { return scale.bits == 0 ? 1.0f : widen(scale); }

// The code + 128 in the lowest byte. The sum's last bit is worth 1, so that the addition itself rounds to
// nearest, ties to even, and its lowest byte is the code.
uint32_t code_of(float weight, float divisor) {
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23
  return bits_of(weight / divisor + kRounder) ^ 128u;
}

// Sums of squares of the norms of an output's groups.
struct SquareSums {
  double weights = 0, errors = 0;

  void add_group(const float* values, float divisor, BFloat16 scale, float largest) {
    if (scale.bits == 0) {  // all codes are zero
      weights += kInt8Group * static_cast<double>(largest) * largest;
      errors += kInt8Group * static_cast<double>(largest) * largest;
      return;
    }
    // In units of the scale. A quotient is off by 127 * 2^-24 < 2^-17 at most, the norm of 64 of them by
    // 2^-14; the sum of 64 squares is off by 2^-18 of it.
    constexpr float kRounder = 12582912.0f;
    constexpr int kSums = 8;  // side by side
    float weight_sums[kSums] = {}, error_sums[kSums] = {};
    for (int64_t i = 0; i < kInt8Group; i += kSums) {
      for (int j = 0; j < kSums; ++j) {
        const float quotient = values[i + j] / divisor;
        const float error = quotient - ((quotient + kRounder) - kRounder);
        weight_sums[j] += quotient * quotient;
        error_sums[j] += error * error;
      }
    }
    const auto square = [&](const float* sums) {
      double sum = 0;
      for (int j = 0; j < kSums; ++j) sum += sums[j];
      const double norm = (std::sqrt(sum) * (1 + 0x1p-16) + 0x1p-13) * divisor;
      return norm * norm;
    };
    weights += square(weight_sums);
    errors += square(error_sums);
  }
};

float norm_of(double squares) { return static_cast<float>(std::sqrt(squares) * (1 + 0x1p-20)); }

class Packer {
 public:
  Packer(uint8_t* codes, BFloat16* scales, const FloatMatrix& matrix, const Kernels& kernels,
         const Int8Norms* norms)
      : codes_(codes), scales_(scales), matrix_(matrix), kernels_(kernels), norms_(norms) {}

  int64_t panels() const { return int8_panels(matrix_.out_features); }

  // Both give false for weights that have no scale.

  // Panels [begin, end), at most kBlockPanels, of rows of outputs: rows of several panels at once, since
  // short pieces of far apart rows are slow to read.
  static constexpr int64_t kBlockPanels = 8;
  bool pack_block(int64_t begin, int64_t end) const {
    constexpr int64_t kWidth = kBlockPanels * kInt8Panel;
    alignas(64) float weights[kInt8Group][kWidth];
    alignas(64) float divisors[kWidth];
    alignas(64) uint32_t largest[kWidth];
    const int64_t I = matrix_.in_features, O = matrix_.out_features;
    const int64_t first = begin * kInt8Panel, width = (end - begin) * kInt8Panel;
    const int64_t present = std::min(O - first, width);
    bool is_sound = true;
    for (int64_t group = 0; group < groups(); ++group) {
      const int64_t start = group * kInt8Group, inputs = std::min(kInt8Group, I - start);
      for (int64_t i = 0; i < kInt8Group; ++i) {
        const int64_t count = i < inputs ? present : 0;
        if (count) read(weights[i], (start + i) * O + first, count);
        std::fill(weights[i] + count, weights[i] + width, 0.0f);
      }
      std::fill(largest, largest + width, 0u);
      for (int64_t i = 0; i < inputs; ++i) {
        for (int64_t o = 0; o < width; ++o) {
          const uint32_t magnitude = bits_of(weights[i][o]) & kMagnitude;
          largest[o] = magnitude > largest[o] ? magnitude : largest[o];
        }
      }
      for (int64_t o = 0; o < width; ++o) {
        is_sound = is_sound && largest[o] < kLimit;
        const BFloat16 scale = scale_of(largest[o]);
        panel_scales(begin + o / kInt8Panel, group)[o % kInt8Panel] = scale;
        divisors[o] = divisor_of(scale);
      }
      for (int64_t panel = begin; panel < end; ++panel) {
        uint8_t* const lines = panel_codes(panel, group);
        const int64_t at = (panel - begin) * kInt8Panel;
        for (int64_t line = 0; line < kLines; ++line) {
          alignas(64) uint32_t words[kInt8Panel];
          const auto& rows = weights + line * kInt8LineInputs;
          for (int64_t o = 0; o < kInt8Panel; ++o) {
            const float divisor = divisors[at + o];
            words[o] =
                (code_of(rows[0][at + o], divisor) & 255u) | (code_of(rows[1][at + o], divisor) & 255u) << 8 |
                (code_of(rows[2][at + o], divisor) & 255u) << 16 | code_of(rows[3][at + o], divisor) << 24;
          }
          std::memcpy(lines + line * kInt8LineBytes, words, kInt8LineBytes);
        }
      }
    }
    return is_sound;
  }

  // One panel of rows of inputs.
  bool pack_transposed(int64_t panel) const {
    alignas(64) float weights[kInt8Group];
    alignas(64) uint8_t codes[kInt8Panel][kInt8Group];
    SquareSums sums[kInt8Panel];
    const int64_t I = matrix_.in_features, first = panel * kInt8Panel;
    bool is_sound = true;
    for (int64_t group = 0; group < groups(); ++group) {
      const int64_t start = group * kInt8Group, inputs = std::min(kInt8Group, I - start);
      for (int64_t o = 0; o < kInt8Panel; ++o) {
        const int64_t count = first + o < matrix_.out_features ? inputs : 0;
        if (count) read(weights, (first + o) * I + start, count);
        std::fill(weights + count, weights + kInt8Group, 0.0f);
        uint32_t largest = 0;
        for (const float weight : weights) {
          const uint32_t magnitude = bits_of(weight) & kMagnitude;
          largest = magnitude > largest ? magnitude : largest;
        }
        is_sound = is_sound && largest < kLimit;
        const BFloat16 scale = scale_of(largest);
        panel_scales(panel, group)[o] = scale;
        const float divisor = divisor_of(scale);
        for (int64_t i = 0; i < kInt8Group; ++i)
          codes[o][i] = static_cast<uint8_t>(code_of(weights[i], divisor));
        if (norms_) sums[o].add_group(weights, divisor, scale, float_from_bits(largest));
      }
      uint8_t* out = panel_codes(panel, group);
      for (int64_t line = 0; line < kLines; ++line) {
        for (int64_t o = 0; o < kInt8Panel; ++o, out += kInt8LineInputs)
          std::memcpy(out, codes[o] + line * kInt8LineInputs, kInt8LineInputs);
      }
    }
    for (int64_t o = 0; norms_ && o < std::min(kInt8Panel, matrix_.out_features - first); ++o) {
      norms_->weights[first + o] = norm_of(sums[o].weights);
      norms_->errors[first + o] = norm_of(sums[o].errors);
    }
    return is_sound;
  }

 private:
  int64_t groups() const { return int8_groups(matrix_.in_features); }
  uint8_t* panel_codes(int64_t panel, int64_t group) const {
    return codes_ + (panel * groups() + group) * kInt8Group * kInt8Panel;
  }
  BFloat16* panel_scales(int64_t panel, int64_t group) const {
    return scales_ + (panel * groups() + group) * kInt8Panel;
  }
  void read(float* out, int64_t begin, int64_t n) const {
    if (matrix_.values.dtype == Dtype::kFloat32) {
      std::memcpy(out, matrix_.values.at(begin), static_cast<size_t>(n) * sizeof(float));
    } else {
      kernels_.reading(matrix_.values.dtype).widen(out, matrix_.values.at(begin), n);
    }
  }

  uint8_t* codes_;
  BFloat16* scales_;
  const FloatMatrix& matrix_;
  const Kernels& kernels_;
  const Int8Norms* const norms_;
};

}  // namespace

bool pack_int8(uint8_t* codes, BFloat16* scales, const FloatMatrix& matrix, const Kernels& kernels,
               int threads, const Int8Norms* norms) {
  const Packer packer(codes, scales, matrix, kernels, norms);
  const int64_t step = matrix.is_transposed ? 1 : Packer::kBlockPanels;
  std::atomic<int64_t> next{0};
  std::atomic<bool> is_sound{true};
  const auto work = [&](int) {
    for (int64_t panel; (panel = next.fetch_add(step)) < packer.panels();) {
      const bool is_packed = matrix.is_transposed
                                 ? packer.pack_transposed(panel)
                                 : packer.pack_block(panel, std::min(panel + step, packer.panels()));
      if (!is_packed) is_sound = false;
    }
  };
  if (threads == 1 || matrix.in_features * matrix.out_features < kAloneWeights) {
    work(0);
  } else {
    ThreadPool(threads).run(threads, work);
  }
  return is_sound;
}

}  // namespace gpt2kit
