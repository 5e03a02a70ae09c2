// The fast kernels of kernels_nf4.h, written once over F32x16 and I32x16. See there for what each computes,
// kernels_nf4_reference.cpp for the plain form.

#pragma once

#include "kernels_int8_simd.h"
#include "simd_nf4.h"

namespace gpt2kit {
namespace {

// The scales of a panel's blocks, asked for in the order of groups.
class Nf4PanelScales {
 public:
  Nf4PanelScales(const Nf4Matrix& w, int64_t panel)
      : groups_(w.groups()), floats_(w.scales.floats), offset_(set1(floats_ ? 0.0f : *w.scales.offset)) {
    const int64_t place = panel * groups_ * kInt8Panel, blocks = w.out_features * groups_;
    if (floats_) {
      floats_ += place;
      return;
    }
    codes_ = w.scales.codes + place;
    // A panel's 16 G blocks run through G / 16 of nested, which up to G = 240 are in one register.
    nested_ = w.scales.nested + place / kNf4NestedBlock;
    num_nested_ = (blocks + kNf4NestedBlock - 1) / kNf4NestedBlock - place / kNf4NestedBlock;
    first_ = place % kNf4NestedBlock;
    if (groups_ > kMostInRegister) return;
    near_ = num_nested_ >= kLanes ? load(nested_) : load_first(nested_, num_nested_);
    const auto first = static_cast<int32_t>(first_), groups = static_cast<int32_t>(groups_);
    for (int32_t j = 0; j < kLanes; ++j) blocks_[j] = first + j * groups;
  }

  F32x16 at(int64_t group) {
    if (floats_) return load(floats_ + group * kInt8Panel);
    if (group % kAtATime == 0) {
      const int64_t n = std::min(kAtATime, groups_ - group) * kInt8Panel;
      look_up_dynamic_map(numbers_, codes_ + group * kInt8Panel, n);
      prefetch(codes_ + group * kInt8Panel + kAheadBytes / 32);
    }
    return load(numbers_ + group % kAtATime * kInt8Panel) * nested(group) + offset_;
  }

 private:
  static constexpr int64_t kMostInRegister = 240, kAtATime = 4;

  F32x16 nested(int64_t group) const {
    if (groups_ <= kMostInRegister) {
      const I32x16 block = load_bytes(blocks_) + set1_int(static_cast<int32_t>(group));
      return pick(near_, shift_right<8>(block));
    }
    float lanes[kLanes];
    for (int j = 0; j < kLanes; ++j) {
      const int64_t place = (first_ + j * groups_ + group) / kNf4NestedBlock;
      lanes[j] = nested_[std::min(place, num_nested_ - 1)];  // past the end: outputs that pad the matrix
    }
    return load(lanes);
  }

  const int64_t groups_;
  const float* floats_;
  const F32x16 offset_;
  const uint8_t* codes_ = nullptr;
  const float* nested_ = nullptr;
  int64_t num_nested_ = 0, first_ = 0;
  F32x16 near_ = zero();
  alignas(64) int32_t blocks_[kLanes];
  alignas(64) float numbers_[kAtATime * kInt8Panel];
};

class Nf4Weights {
 public:
  using Matrix = Nf4Matrix;
  static constexpr int kLines = 1;

  Nf4Weights(const Nf4Matrix& w, int64_t panel) : scales_(w, panel) {}

  template <int kPair>
  I32x16 pair(const uint8_t* line) const {
    return nf4_pair<kPair>(integers_, load_bytes(line));
  }
  static int32_t start(const Int8Rows&, int64_t) { return 0; }
  F32x16 scale(int64_t group) { return scales_.at(group) * set1(kNf4Step); }

 private:
  const Nf4Integers integers_ = nf4_integers();
  Nf4PanelScales scales_;
};

inline void unpack_nf4(float* out, int64_t stride, const Nf4Matrix& w, int64_t panel) {
  const F32x16 values = load(kNf4Values);
  Nf4PanelScales scales(w, panel);
  const uint8_t* line = w.panel_codes(panel);
  for (int64_t g = 0; g < w.groups(); ++g) {
    const F32x16 scale = scales.at(g);
    for (int64_t eight = 0; eight < kInt8Group / kNf4LineInputs; ++eight) {
      const I32x16 codes = load_bytes(line);
      const auto put = [&](int64_t k, I32x16 code) { store(out + k * stride, pick(values, code) * scale); };
      put(0, codes);
      put(1, shift_right<nf4_shift(1)>(codes));
      put(2, shift_right<nf4_shift(2)>(codes));
      put(3, shift_right<nf4_shift(3)>(codes));
      put(4, shift_right<nf4_shift(4)>(codes));
      put(5, shift_right<nf4_shift(5)>(codes));
      put(6, shift_right<nf4_shift(6)>(codes));
      put(7, shift_right<nf4_shift(7)>(codes));
      out += kNf4LineInputs * stride;
      line += kInt8LineBytes;
    }
  }
}

constexpr Nf4Kernels kNf4Kernels = {multiply_panels<Nf4Weights>, unpack_nf4};

}  // namespace
}  // namespace gpt2kit
