// Scalar definitions that every instruction set must reproduce to the bit: the exponential, the
// activations and the order in which sixteen partial sums become one.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace gpt2kit {

// exp(x) for float32: x = n ln2 + r with |r| <= ln2/2, a polynomial of degree 6 in r (Cephes expf), times
// 2^n. Below kExpLow the result is 0 (float32 would be subnormal), above kExpHigh it stops growing.
constexpr float kExpLow = -87.0f, kExpHigh = 88.0f;
constexpr float kLog2e = 1.44269504088896341f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
constexpr float kExpPoly[6] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                               4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};

inline float exp_scalar(float x) {
  if (x != x) return x;
  if (x < kExpLow) return 0.0f;
  if (x > kExpHigh) x = kExpHigh;
  const float n = std::nearbyint(x * kLog2e);
  float r = std::fma(n, -kLn2High, x);
  r = std::fma(n, -kLn2Low, r);
  float p = kExpPoly[0];
  for (int i = 1; i < 6; ++i) p = std::fma(p, r, kExpPoly[i]);
  p = std::fma(p, r * r, r) + 1.0f;
  uint32_t bits;
  std::memcpy(&bits, &p, 4);
  bits += static_cast<uint32_t>(static_cast<int32_t>(n)) << 23;
  std::memcpy(&p, &bits, 4);
  return p;
}

constexpr float kGeluScale = 1.5957691216057308f;  // 2 sqrt(2/pi)
constexpr float kGeluCubic = 0.044715f;

inline float x_sigmoid(float x, float u) { return x / (1.0f + exp_scalar(-u)); }  // x * sigmoid(u)

inline float activate_scalar(float x, Activation activation) {
  switch (activation) {
    case Activation::kGeluTanh:
      return x_sigmoid(x, kGeluScale * x * std::fma(kGeluCubic * x, x, 1.0f));
    case Activation::kGeluErf:
      return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752f));
    case Activation::kGeluQuick:
      return x_sigmoid(x, 1.702f * x);
    case Activation::kRelu:
      return x > 0.0f ? x : 0.0f;
    case Activation::kSilu:
      return x_sigmoid(x, x);
    case Activation::kTanh:
      return std::tanh(x);
    case Activation::kSigmoid:
      return x_sigmoid(1.0f, x);
    case Activation::kNone:
      break;
  }
  return x;
}

// Sixteen partial sums to one, by halves.
inline float sum_lanes(const float* lanes) {
  float s[8];
  for (int i = 0; i < 8; ++i) s[i] = lanes[i] + lanes[i + 8];
  for (int i = 0; i < 4; ++i) s[i] += s[i + 4];
  for (int i = 0; i < 2; ++i) s[i] += s[i + 2];
  return s[0] + s[1];
}

}  // namespace gpt2kit
