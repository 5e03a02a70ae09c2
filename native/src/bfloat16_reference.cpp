// The bfloat16 products in the plainest form that rounds as their contract says.

#include <cfloat>
#include <cmath>
#include <vector>

#include "bfloat16_kernels.h"
#include "bfloat16_scalar.h"
#include "scalar_math.h"

namespace gpt2kit {
namespace {

float without_subnormals(float x) { return std::fabs(x) < FLT_MIN ? std::copysign(0.0f, x) : x; }

float multiply_add(float x, float w, float sum) {
  x = without_subnormals(x), w = without_subnormals(w), sum = without_subnormals(sum);
  const float result = std::fma(x, w, sum);
  if (std::fabs(result) == FLT_MIN) {
    // Among subnormals floats are twice as far apart, so some results reach FLT_MIN that would not with all
    // their 24 bits. Terms this small are exact in float64.
    const double exact = double{x} * double{w} + double{sum};
    if (std::fabs(exact) < double{FLT_MIN} * (1.0 - 0x1p-25)) return std::copysign(0.0f, result);
  }
  return without_subnormals(result);
}

// Adds the pair of features k and k + 1 < n of two vectors whose steps are 1 and w_stride.
float add_pair(const BFloat16* x, const BFloat16* w, int64_t w_stride, int64_t k, int64_t n, float sum) {
  const bool has_second = k + 1 < n;
  sum = multiply_add(has_second ? widen(x[k + 1]) : 0.0f, has_second ? widen(w[(k + 1) * w_stride]) : 0.0f,
                     sum);
  return multiply_add(widen(x[k]), widen(w[k * w_stride]), sum);
}

void round_all(BFloat16* out, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = round_to_bfloat16(x[i]);
}

void partial_sums(float* sums, int64_t sums_stride, const BFloat16* x, int64_t x_stride, const void* weights,
                  int64_t w_stride, int64_t rows, int64_t k_begin, int64_t k_end, int64_t begin,
                  int64_t end) {
  const auto* w = static_cast<const BFloat16*>(weights);
  for (int64_t b = 0; b < rows; ++b) {
    for (int64_t n = begin; n < end; ++n) {
      float sum = 0.0f;
      for (int64_t k = k_begin; k < k_end; k += 2) {
        sum = add_pair(x + b * x_stride, w + n, w_stride, k, k_end, sum);
      }
      sums[b * sums_stride + n] = sum;
    }
  }
}

void finish_sums(void* out, int64_t out_stride, const float* first, const float* second, int64_t sums_stride,
                 int64_t rows, int64_t begin, int64_t end, const Epilogue& epilogue) {
  for (int64_t b = 0; b < rows; ++b) {
    for (int64_t n = begin; n < end; ++n) {
      float sum = first[b * sums_stride + n] + second[b * sums_stride + n];
      if (epilogue.bias) sum += epilogue.bias[n];
      sum = activate_scalar(sum, epilogue.activation);
      const int64_t i = b * out_stride + n;
      if (epilogue.round_out) {
        static_cast<BFloat16*>(out)[i] = round_to_bfloat16(sum);
      } else {
        float& o = static_cast<float*>(out)[i];
        o = epilogue.add_to_out ? o + sum : sum;
      }
    }
  }
  // The row that the next product reads ends with a zero.
  if (epilogue.round_out && end % 2) {
    for (int64_t b = 0; b < rows; ++b) static_cast<BFloat16*>(out)[b * out_stride + end] = {0};
  }
}

void linear(void* out, int64_t out_stride, const BFloat16* x, int64_t x_stride, const void* w,
            int64_t w_stride, int64_t rows, int64_t in_features, int64_t begin, int64_t end,
            const Epilogue& epilogue, float* /*scratch*/) {
  std::vector<float> first(static_cast<size_t>(rows * end)), second(first);
  const int64_t middle = half_of_pairs(in_features);
  partial_sums(first.data(), end, x, x_stride, w, w_stride, rows, 0, middle, begin, end);
  partial_sums(second.data(), end, x, x_stride, w, w_stride, rows, middle, in_features, begin, end);
  finish_sums(out, out_stride, first.data(), second.data(), end, rows, begin, end, epilogue);
}

void project(float* out, int64_t out_stride, const BFloat16* x, int64_t x_stride, const void* weights,
             int64_t rows, int64_t channels, int64_t begin, int64_t end) {
  const auto* w = static_cast<const BFloat16*>(weights);
  for (int64_t b = 0; b < rows; ++b) {
    for (int64_t v = begin; v < end; ++v) {
      float lanes[16] = {};
      for (int64_t k = 0; k < channels; k += 2) {
        float& lane = lanes[k / 2 % 16];
        lane = add_pair(x + b * x_stride, w + v * channels, 1, k, channels, lane);
      }
      out[b * out_stride + v] = sum_lanes(lanes);
    }
  }
}

}  // namespace

const BFloat16Kernels kReferenceBFloat16Kernels = {round_all, linear, partial_sums, finish_sums, project};

}  // namespace gpt2kit
