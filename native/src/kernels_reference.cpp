// The kernels in the plainest form that rounds as their contracts say.

#include <algorithm>
#include <vector>

#include "kernels.h"
#include "scalar_math.h"

namespace gpt2kit {
namespace {

template <typename W>
void partial_sums(float* sums, int64_t sums_stride, const float* x, int64_t x_stride, const void* weights,
                  int64_t w_stride, int64_t rows, int64_t k_begin, int64_t k_end, int64_t begin,
                  int64_t end) {
  const W* w = static_cast<const W*>(weights);
  for (int64_t b = 0; b < rows; ++b) {
    for (int64_t n = begin; n < end; ++n) {
      float sum = 0.0f;
      for (int64_t k = k_begin; k < k_end; ++k) {
        sum = std::fma(x[b * x_stride + k], widen(w[k * w_stride + n]), sum);
      }
      sums[b * sums_stride + n] = sum;
    }
  }
}

void finish_sums(float* out, int64_t out_stride, const float* first, const float* second, int64_t sums_stride,
                 int64_t rows, int64_t begin, int64_t end, const Epilogue& epilogue) {
  for (int64_t b = 0; b < rows; ++b) {
    for (int64_t n = begin; n < end; ++n) {
      float sum = first[b * sums_stride + n] + second[b * sums_stride + n];
      if (epilogue.bias) sum += epilogue.bias[n];
      sum = activate_scalar(sum, epilogue.activation);
      float& o = out[b * out_stride + n];
      o = epilogue.add_to_out ? o + sum : sum;
    }
  }
}

template <typename W>
void linear(float* out, int64_t out_stride, const float* x, int64_t x_stride, const void* w, int64_t w_stride,
            int64_t rows, int64_t in_features, int64_t begin, int64_t end, const Epilogue& epilogue,
            float* /*scratch*/) {
  std::vector<float> first(static_cast<size_t>(end)), second(first);
  const int64_t middle = half(in_features);
  for (int64_t b = 0; b < rows; ++b) {
    const float* row = x + b * x_stride;
    partial_sums<W>(first.data(), end, row, x_stride, w, w_stride, 1, 0, middle, begin, end);
    partial_sums<W>(second.data(), end, row, x_stride, w, w_stride, 1, middle, in_features, begin, end);
    finish_sums(out + b * out_stride, out_stride, first.data(), second.data(), end, 1, begin, end, epilogue);
  }
}

template <typename W>
void project(float* out, int64_t out_stride, const float* x, int64_t x_stride, const void* weights,
             int64_t rows, int64_t channels, int64_t begin, int64_t end) {
  const W* w = static_cast<const W*>(weights);
  for (int64_t b = 0; b < rows; ++b) {
    for (int64_t v = begin; v < end; ++v) {
      float lanes[16] = {};
      for (int64_t k = 0; k < channels; ++k) {
        lanes[k % 16] = std::fma(x[b * x_stride + k], widen(w[v * channels + k]), lanes[k % 16]);
      }
      out[b * out_stride + v] = sum_lanes(lanes);
    }
  }
}

template <typename W>
void widen_all(float* out, const void* weights, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = widen(static_cast<const W*>(weights)[i]);
}

template <typename W>
constexpr MatrixKernels kReading = {linear<W>, partial_sums<W>, project<W>, widen_all<W>};

void layer_norm(float* out, const float* x, const float* weight, const float* bias, float epsilon,
                int64_t channels) {
  float lanes[16] = {};
  for (int64_t k = 0; k < channels; ++k) lanes[k % 16] += x[k];
  const float mean = sum_lanes(lanes) / static_cast<float>(channels);
  std::fill(lanes, lanes + 16, 0.0f);
  for (int64_t k = 0; k < channels; ++k) {
    const float centred = x[k] - mean;
    lanes[k % 16] = std::fma(centred, centred, lanes[k % 16]);
  }
  const float scale = 1.0f / std::sqrt(sum_lanes(lanes) / static_cast<float>(channels) + epsilon);
  for (int64_t k = 0; k < channels; ++k) out[k] = std::fma((x[k] - mean) * scale, weight[k], bias[k]);
}

}  // namespace

const Kernels kReferenceKernels = {
    "reference",         {kReading<float>, kReading<BFloat16>, kReading<Float16>},
    finish_sums,         layer_norm,
    kReferenceAttention, &kInt8ReferenceKernels};

}  // namespace gpt2kit
