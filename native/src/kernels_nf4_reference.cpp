// The kernels of kernels_nf4.h in the plainest form that rounds as their contracts say.

#include <algorithm>

#include "kernels.h"
#include "kernels_nf4.h"
#include "scalar_math.h"

namespace gpt2kit {
namespace {

// Seven decades, the larger the finer divided; both signs, 0 and 1.
struct DynamicMap {
  float values[256];
};

constexpr DynamicMap dynamic_map() {
  constexpr float kDecades[7] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
  DynamicMap map{};
  map.values[255] = 1.0f;
  int place = 0;
  for (int decade = 0; decade < 7; ++decade) {
    const int count = 1 << decade;
    const double step = (1.0f - 0.1f) / static_cast<float>(count);
    const auto edge = [&](int k) {  // each half from its own end, as torch.linspace
      return static_cast<float>(k < (count + 1) / 2 ? 0.1f + step * k : 1.0 - step * (count - k));
    };
    for (int k = 0; k < count; ++k, ++place) {
      const float value = kDecades[decade] * ((edge(k) + edge(k + 1)) / 2.0f);
      map.values[128 + place] = value;
      map.values[126 - place] = -value;
    }
  }
  return map;
}
constexpr DynamicMap kMap = dynamic_map();

// The code of a weight.
int code_at(const Nf4Matrix& w, int64_t input, int64_t output) {
  const uint8_t* line =
      w.panel_codes(output / kInt8Panel) + input / kNf4LineInputs * kInt8LineBytes + output % kInt8Panel * 4;
  const int shift = nf4_shift(input % kNf4LineInputs);
  return line[shift / 8] >> shift % 8 & 15;
}

float scale_at(const Nf4Matrix& w, int64_t group, int64_t output) {
  const int64_t place = (output / kInt8Panel * w.groups() + group) * kInt8Panel + output % kInt8Panel;
  if (w.scales.floats) return w.scales.floats[place];
  const float nested = w.scales.nested[(output * w.groups() + group) / kNf4NestedBlock];
  return kMap.values[w.scales.codes[place]] * nested + *w.scales.offset;
}

void multiply(float* out, int64_t out_stride, const Int8Rows& x, const Nf4Matrix& w, int64_t rows,
              int64_t begin, int64_t end, const Epilogue& epilogue) {
  const int64_t groups = w.groups();
  for (int64_t b = 0; b < rows; ++b) {
    for (int64_t n = begin * kInt8Panel; n < std::min(end * kInt8Panel, w.out_features); ++n) {
      float sum = 0.0f;
      for (int64_t g = 0; g < groups; ++g) {
        int32_t product = 0;
        for (int64_t k = g * kInt8Group; k < (g + 1) * kInt8Group; ++k)
          product += kNf4Integers[code_at(w, k, n)] * x.values[b * x.stride + int8_rows_place(k)];
        const float scale = scale_at(w, g, n) * kNf4Step * x.scales[b * groups + g];
        sum = std::fma(scale, static_cast<float>(product), sum);
      }
      if (epilogue.bias) sum += epilogue.bias[n];
      sum = activate_scalar(sum, epilogue.activation);
      float& o = out[b * out_stride + n];
      o = epilogue.add_to_out ? o + sum : sum;
    }
  }
}

void unpack(float* out, int64_t stride, const Nf4Matrix& w, int64_t panel) {
  const int64_t first = panel * kInt8Panel, count = std::min(kInt8Panel, w.out_features - first);
  for (int64_t i = 0; i < w.in_features; ++i) {
    for (int64_t j = 0; j < count; ++j)
      out[i * stride + j] = kNf4Values[code_at(w, i, first + j)] * scale_at(w, i / kInt8Group, first + j);
  }
}

}  // namespace

const float (&kDynamicMap)[256] = kMap.values;
const Nf4Kernels kNf4ReferenceKernels = {multiply, unpack};

}  // namespace gpt2kit
