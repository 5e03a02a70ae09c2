// NF4 matrices from floats and from bitsandbytes' own order. See kernels_nf4.h.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels_nf4.h"

namespace gpt2kit {
namespace {

constexpr int64_t kLineCodes = kNf4LineInputs / 2;  // bytes of an output

// Halfway between two neighbours of kNf4Values; a weight that is no larger has the lower code.
struct Middles {
  float values[15];
};

constexpr Middles middles() {
  Middles m{};
  for (int i = 0; i < 15; ++i) m.values[i] = (kNf4Values[i] + kNf4Values[i + 1]) / 2.0f;
  return m;
}
constexpr Middles kMiddles = middles();

// 16 outputs by 64 inputs of weights with row stride `stride`: a scale and 32 bytes of codes for each output.
void pack_block(uint8_t* codes, float* scales, const float* weights, int64_t stride, int64_t outputs) {
  constexpr float kSmallest = 1e-38f;  // divisor of a block of zeros
  float largest[kInt8Panel] = {}, factor[kInt8Panel];
  float block[kInt8Group][kInt8Panel] = {};
  for (int64_t i = 0; i < kInt8Group; ++i) {
    std::memcpy(block[i], weights + i * stride, static_cast<size_t>(outputs) * sizeof(float));
    for (int64_t j = 0; j < kInt8Panel; ++j) largest[j] = std::max(largest[j], std::fabs(block[i][j]));
  }
  for (int64_t j = 0; j < kInt8Panel; ++j) {
    scales[j] = largest[j];
    factor[j] = 1.0f / std::max(largest[j], kSmallest);
  }
  for (int64_t i = 0; i < kInt8Group; i += kNf4LineInputs) {
    uint32_t packed[kInt8Panel] = {};
    for (int64_t k = 0; k < kNf4LineInputs; ++k) {
      const int shift = static_cast<int>(nf4_byte(k) * 8 + k % 2 * 4);
      int32_t code[kInt8Panel] = {};
      for (const float middle : kMiddles.values) {
        for (int64_t j = 0; j < kInt8Panel; ++j) code[j] += block[i + k][j] * factor[j] > middle;
      }
      for (int64_t j = 0; j < kInt8Panel; ++j) packed[j] |= static_cast<uint32_t>(code[j]) << shift;
    }
    for (int64_t j = 0; j < kInt8Panel * kLineCodes; ++j)
      codes[j] = static_cast<uint8_t>(packed[j / kLineCodes] >> j % kLineCodes * 8);
    codes += kInt8LineBytes;
  }
}

}  // namespace

void pack_nf4(uint8_t* codes, float* scales, const float* weights, int64_t in_features, int64_t out_features,
              int64_t begin, int64_t end) {
  const int64_t groups = in_features / kInt8Group;
  // Groups outside: rows of weights are read in stretches, the codes written in pieces of 512 bytes.
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t block = panel * groups + g, first = panel * kInt8Panel;
      pack_block(codes + block * (kInt8Group * kInt8Panel / 2), scales + block * kInt8Panel,
                 weights + g * kInt8Group * out_features + first, out_features,
                 std::min(kInt8Panel, out_features - first));
    }
  }
}

void repack_nf4(uint8_t* codes, const uint8_t* stored, int64_t in_features, int64_t out_features,
                int64_t begin, int64_t end) {
  const int64_t eights = in_features / kNf4LineInputs;
  for (int64_t panel = begin; panel < end; ++panel) {
    for (int64_t eight = 0; eight < eights; ++eight) {
      uint8_t* line = codes + (panel * eights + eight) * kInt8LineBytes;
      for (int64_t j = 0; j < kInt8Panel; ++j) {
        const int64_t output = panel * kInt8Panel + j;
        uint8_t* out = line + j * kLineCodes;
        std::fill_n(out, kLineCodes, uint8_t{0});
        if (output >= out_features) continue;
        const uint8_t* in = stored + (output * eights + eight) * kLineCodes;
        for (int64_t k = 0; k < kNf4LineInputs; k += 2)
          out[nf4_byte(k)] = static_cast<uint8_t>(in[k / 2] << 4 | in[k / 2] >> 4);
      }
    }
  }
}

}  // namespace gpt2kit
