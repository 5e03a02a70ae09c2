// Weights as files store them: float32, bfloat16 or float16, which widen to float32 exactly; matrices also in
// the 8 bits of kernels_int8.h or the 4 bits of kernels_nf4.h.

#pragma once

#include <cstdint>
#include <cstring>

namespace gpt2kit {

struct BFloat16 {  // the upper half of a float32
  uint16_t bits;
};

struct Float16 {  // IEEE 754 binary16
  uint16_t bits;
};

enum class Dtype : int32_t { kFloat32, kBFloat16, kFloat16, kInt8, kNf4 };
constexpr int kNumFloatDtypes = 3;  // the first ones
constexpr bool is_coded(Dtype dtype) { return dtype == Dtype::kInt8 || dtype == Dtype::kNf4; }

// The scales of a matrix in NF4, one for each block; kernels_nf4.h has their order. Either floats, or with
// double quantisation the other three.
struct Nf4Scales {
  const float* floats;
  const uint8_t* codes;
  const float* nested;
  const float* offset;  // one number
};

// An array of weights at any address. Its owner may change the values between two forward passes.
struct Tensor {
  const void* data;
  Dtype dtype;
  const BFloat16* scales = nullptr;  // of kInt8, whose data are codes
  Nf4Scales nf4_scales = {};         // of kNf4, whose data are codes

  // Not for codes.
  const void* at(int64_t index) const {
    return static_cast<const char*>(data) + index * (dtype == Dtype::kFloat32 ? 4 : 2);
  }
};

inline float float_from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline float widen(float x) { return x; }
inline float widen(BFloat16 x) { return float_from_bits(uint32_t{x.bits} << 16); }
inline float widen(Float16 x) {
  const uint32_t sign = (x.bits & 0x8000u) << 16, exponent = x.bits >> 10 & 31u, fraction = x.bits & 1023u;
  if (exponent == 0) {  // fraction * 2^-24
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  // The exponent's bias is 15 there and 127 here; 31 stands for infinity and NaN, as 255 does here.
  const uint32_t widened = exponent == 31 ? 255 : exponent + 112;
  return float_from_bits(sign | widened << 23 | fraction << 13);
}

}  // namespace gpt2kit
