// Rounding to bfloat16, which every instruction set must reproduce to the bit.

#pragma once

#include <cstdint>
#include <cstring>

#include "weights.h"

namespace gpt2kit {

// To nearest, ties to even; subnormals become zero and what is not a number becomes quiet.
inline BFloat16 round_to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint32_t exponent = bits & 0x7f800000u;
  if (exponent == 0) return {static_cast<uint16_t>(bits >> 16 & 0x8000u)};
  if (exponent == 0x7f800000u && (bits & 0x7fffffu)) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

}  // namespace gpt2kit
