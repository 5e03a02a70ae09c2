// Attention in the plainest form that rounds as its contract says.

#include <algorithm>
#include <vector>

#include "bfloat16_scalar.h"
#include "kernels_attention.h"
#include "scalar_math.h"

namespace gpt2kit {
namespace {

float row_scale(const float* x, int64_t n) {
  float largest = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) return NAN;
    largest = std::max(largest, std::fabs(x[i]));
  }
  return int8_row_scale(largest);
}

void round_to(float& out, float x, float /*scale*/) { out = x; }
void round_to(BFloat16& out, float x, float /*scale*/) { out = round_to_bfloat16(x); }
void round_to(int8_t& out, float x, float scale) {
  out = scale > 0.0f ? static_cast<int8_t>(std::nearbyint(x * (1.0f / scale))) : int8_t{0};
}

float widened(float x, const float* /*scale*/) { return x; }
float widened(BFloat16 x, const float* /*scale*/) { return widen(x); }
float widened(int8_t x, const float* scale) { return static_cast<float>(x) * *scale; }

template <typename T>
void append(void* keys, void* values, const float* key, const float* value, int64_t stride, int64_t tokens,
            int64_t past, int64_t head_size) {
  const int64_t padded = (head_size + 15) / 16 * 16;
  for (int64_t i = 0; i < tokens; ++i) {
    const int64_t block = (past + i) / kKeyBlock, t = (past + i) % kKeyBlock;
    const KvBlock<T> k = kv_block<T>(keys, block, head_size), v = kv_block<T>(values, block, padded);
    const float *key_row = key + i * stride, *value_row = value + i * stride;
    float key_scale = 1.0f, value_scale = 1.0f;
    if constexpr (kFormatOf<T> == KvFormat::kInt8) {
      k.scales[t] = key_scale = row_scale(key_row, head_size);
      v.scales[t] = value_scale = row_scale(value_row, head_size);
    }
    for (int64_t d = 0; d < head_size; ++d) {
      round_to(k.rows[d * kKeyBlock + t], key_row[d], key_scale);
      round_to(v.rows[t * padded + d], value_row[d], value_scale);
    }
  }
}

template <typename T>
void widen_blocks(float* wide_keys, float* wide_values, const void* keys, const void* values, int64_t length,
                  int64_t head_size) {
  const int64_t padded = (head_size + 15) / 16 * 16;
  for (int64_t block = 0; block < kv_blocks(length); ++block) {
    const KvBlock<const T> k = kv_block<T>(keys, block, head_size), v = kv_block<T>(values, block, padded);
    for (int64_t d = 0; d < head_size; ++d)
      for (int64_t t = 0; t < kKeyBlock; ++t) *wide_keys++ = widened(k.rows[d * kKeyBlock + t], k.scales + t);
    for (int64_t t = 0; t < kKeyBlock; ++t)
      for (int64_t d = 0; d < padded; ++d) *wide_values++ = widened(v.rows[t * padded + d], v.scales + t);
  }
}

template <typename T>
void attention(float* out, int64_t out_stride, const float* q, int64_t q_stride, const void* keys,
               const void* values, int64_t queries, int64_t past, int64_t head_size, float scale,
               float* probabilities, int64_t probabilities_stride, float* /*scratch*/) {
  const int64_t padded = (head_size + 15) / 16 * 16, positions = kv_blocks(past + queries) * kKeyBlock;
  std::vector<float> k(static_cast<size_t>(positions * head_size));
  std::vector<float> v(static_cast<size_t>(positions * padded)), p(static_cast<size_t>(positions));
  widen_blocks<T>(k.data(), v.data(), keys, values, past + queries, head_size);
  for (int64_t i = 0; i < queries; ++i) {
    const int64_t length = past + i + 1;
    float largest = -INFINITY;
    for (int64_t t = 0; t < length; ++t) {
      const float* key = k.data() + t / kKeyBlock * kKeyBlock * head_size + t % kKeyBlock;
      float score = 0.0f;
      for (int64_t d = 0; d < head_size; ++d) {
        score = std::fma(q[i * q_stride + d] * scale, key[d * kKeyBlock], score);
      }
      p[t] = score;
      largest = std::max(largest, score);
    }
    float lanes[16] = {};
    for (int64_t t = 0; t < length; ++t) {
      p[t] = exp_scalar(p[t] - largest);
      lanes[t % 16] += p[t];
    }
    const float sum = sum_lanes(lanes);
    for (int64_t d = 0; d < head_size; ++d) {
      float value = 0.0f;
      for (int64_t t = 0; t < length; ++t) value = std::fma(p[t], v[t * padded + d], value);
      out[i * out_stride + d] = value / sum;
    }
    if (probabilities) {
      for (int64_t t = 0; t < length; ++t) probabilities[i * probabilities_stride + t] = p[t] / sum;
    }
  }
}

template <typename T>
constexpr AttentionKernels kAttending = {append<T>, widen_blocks<T>, attention<T>};

}  // namespace

const AttentionKernels kReferenceAttention[kNumKvFormats] = {kAttending<float>, kAttending<BFloat16>,
                                                             kAttending<int8_t>};

}  // namespace gpt2kit
