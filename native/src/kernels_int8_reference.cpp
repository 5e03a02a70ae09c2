// The kernels of kernels_int8.h in the plainest form that rounds as their contracts say.

#include <algorithm>

#include "kernels.h"
#include "scalar_math.h"

namespace gpt2kit {
namespace {

// Where input k lies in a row of activations: in 16 bits each four are in the order 0, 2, 1, 3.
int64_t place(const Int8Rows&, int64_t k) {
  constexpr int64_t kOrder[4] = {0, 2, 1, 3};
  return k / 4 * 4 + kOrder[k % 4];
}
int64_t place(const ByteRows&, int64_t k) { return k; }

template <typename Rows, typename Value, int32_t kMost>
void quantize(const Rows& rows, const float* x, int64_t x_stride, int64_t in_features, int64_t begin,
              int64_t end) {
  const int64_t groups = int8_groups(in_features);
  for (int64_t b = begin; b < end; ++b) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * kInt8Group, last = std::min(in_features, first + kInt8Group);
      const float* row = x + b * x_stride;
      bool is_finite = true;
      float largest = 0.0f;
      for (int64_t k = first; k < last; ++k) {
        is_finite = is_finite && std::isfinite(row[k]);
        largest = std::max(largest, std::fabs(row[k]));
      }
      const bool is_scaled = is_finite && largest >= kInt8Least;
      const float steps = is_scaled ? float{kMost} / largest : 0.0f;
      int32_t sum = 0;
      for (int64_t k = first; k < first + kInt8Group; ++k) {
        const bool is_there = k < last && is_scaled;
        const int32_t value = is_there ? static_cast<int32_t>(std::nearbyint(row[k] * steps)) : 0;
        rows.values[b * rows.stride + place(rows, k)] = static_cast<Value>(value);
        sum += value;
      }
      rows.scales[b * groups + g] = is_scaled ? largest / float{kMost} : is_finite ? 0.0f : NAN;
      rows.starts[b * groups + g] = -128 * sum;
    }
  }
}

template <typename Rows>
void multiply(float* out, int64_t out_stride, const Rows& x, const Int8Matrix& w, int64_t rows, int64_t begin,
              int64_t end, const Epilogue& epilogue) {
  const int64_t groups = w.groups();
  for (int64_t b = 0; b < rows; ++b) {
    for (int64_t n = begin * kInt8Panel; n < std::min(end * kInt8Panel, w.out_features); ++n) {
      const int64_t lane = n % kInt8Panel;
      const uint8_t* codes = w.panel_codes(n / kInt8Panel);
      const BFloat16* scales = w.panel_scales(n / kInt8Panel);
      float sum = 0.0f;
      for (int64_t g = 0; g < groups; ++g) {
        int32_t product = 0;
        for (int64_t k = g * kInt8Group; k < (g + 1) * kInt8Group; ++k) {
          const int32_t code = codes[k / 4 * kInt8LineBytes + lane * 4 + k % 4] - 128;
          product += code * x.values[b * x.stride + place(x, k)];
        }
        const float scale = widen(scales[g * kInt8Panel + lane]) * x.scales[b * groups + g];
        sum = std::fma(scale, static_cast<float>(product), sum);
      }
      if (epilogue.bias) sum += epilogue.bias[n];
      sum = activate_scalar(sum, epilogue.activation);
      float& o = out[b * out_stride + n];
      o = epilogue.add_to_out ? o + sum : sum;
    }
  }
}

}  // namespace

void widen_int8_output(float* out, const Int8Matrix& w, int64_t output) {
  const int64_t lane = output % kInt8Panel;
  const uint8_t* codes = w.panel_codes(output / kInt8Panel) + lane * 4;
  const BFloat16* scales = w.panel_scales(output / kInt8Panel) + lane;
  for (int64_t k = 0; k < w.in_features; ++k) {
    const int32_t code = codes[k / 4 * kInt8LineBytes + k % 4] - 128;
    out[k] = static_cast<float>(code) * widen(scales[k / kInt8Group * kInt8Panel]);
  }
}

const Int8Kernels kInt8ReferenceKernels = {quantize<Int8Rows, int16_t, 32767>, multiply<Int8Rows>,
                                           quantize<ByteRows, int8_t, 127>, multiply<ByteRows>};

}  // namespace gpt2kit
