// What NF4 needs beyond simd_int8.h: looking numbers up in registers.

#pragma once

#include "kernels_nf4.h"
#include "simd_int8.h"

namespace gpt2kit {
namespace {

#ifdef __AVX512VNNI__

struct Nf4Integers {
  __m512i words;  // twice, so that the fifth bit of an index does not matter
};

inline Nf4Integers nf4_integers() {
  return {_mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(kNf4Integers)))};
}

// For pair 0, 1, 2 or 3 of a line, which stand for the inputs (0, 2), (1, 3), (4, 6), (5, 7).
template <int kPair>
inline I32x16 nf4_pair(Nf4Integers integers, I32x16 line) {
  constexpr int kShift = kPair / 2 * 4 + kPair % 2 * 8;
  return {_mm512_permutexvar_epi16(_mm512_srli_epi16(line.v, kShift), integers.words)};
}

// table[index mod 16] in each lane.
inline F32x16 pick(F32x16 table, I32x16 index) { return {_mm512_permutexvar_ps(index.v, table.v)}; }
template <int kBits>
inline I32x16 shift_right(I32x16 a) {
  return {_mm512_srli_epi32(a.v, kBits)};
}

// kDynamicMap as four planes of bytes, from the lowest to the highest of a float.
struct DynamicMapPlanes {
  alignas(64) uint8_t bytes[4][256];
  DynamicMapPlanes() {
    for (int i = 0; i < 256; ++i)
      for (int b = 0; b < 4; ++b) bytes[b][i] = reinterpret_cast<const uint8_t*>(kDynamicMap + i)[b];
  }
};

// out[i] = kDynamicMap[codes[i]], i < n <= 64; out has room for 64. A gather would take ten times as long.
inline void look_up_dynamic_map(float* out, const uint8_t* codes, int64_t n) {
  static const DynamicMapPlanes planes;
  // Dword 4 L + j comes from dword L + 4 j, so that unpacking within 128 bits leaves the original order.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __mmask64 there = n >= 64 ? ~__mmask64{0} : (__mmask64{1} << n) - 1;
  const __m512i index = _mm512_permutexvar_epi32(order, _mm512_maskz_loadu_epi8(there, codes));
  const __mmask64 is_upper = _mm512_movepi8_mask(index);
  __m512i bytes[4];
#pragma GCC unroll 4
  for (int b = 0; b < 4; ++b) {
    const auto* quarters = reinterpret_cast<const __m512i*>(planes.bytes[b]);
    const __m512i lower = _mm512_permutex2var_epi8(quarters[0], index, quarters[1]);
    const __m512i upper = _mm512_permutex2var_epi8(quarters[2], index, quarters[3]);
    bytes[b] = _mm512_mask_blend_epi8(is_upper, lower, upper);
  }
  const __m512i low[2] = {_mm512_unpacklo_epi8(bytes[0], bytes[1]), _mm512_unpackhi_epi8(bytes[0], bytes[1])};
  const __m512i high[2] = {_mm512_unpacklo_epi8(bytes[2], bytes[3]),
                           _mm512_unpackhi_epi8(bytes[2], bytes[3])};
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    _mm512_storeu_si512(out + 32 * h, _mm512_unpacklo_epi16(low[h], high[h]));
    _mm512_storeu_si512(out + 32 * h + 16, _mm512_unpackhi_epi16(low[h], high[h]));
  }
}

#else

struct Nf4Integers {
  __m256i low, high;  // bytes, in both halves of 128 bits
};

inline Nf4Integers nf4_integers() {
  alignas(16) uint8_t low[16], high[16];
  for (size_t i = 0; i < 16; ++i) {
    low[i] = static_cast<uint8_t>(kNf4Integers[i]);
    high[i] = static_cast<uint8_t>(kNf4Integers[i] >> 8);
  }
  const auto both = [](const uint8_t* p) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(p)));
  };
  return {both(low), both(high)};
}

template <int kPair>
inline __m256i nf4_pair(Nf4Integers integers, __m256i line) {
  const __m256i bits = _mm256_set1_epi8(15);
  const __m256i index = _mm256_and_si256(kPair < 2 ? line : _mm256_srli_epi16(line, 4), bits);
  const __m256i low = _mm256_shuffle_epi8(integers.low, index);
  const __m256i high = _mm256_shuffle_epi8(integers.high, index);
  const __m256i odd = _mm256_set1_epi16(static_cast<int16_t>(0xff00));
  return kPair % 2 == 0 ? _mm256_blendv_epi8(low, _mm256_slli_epi16(high, 8), odd)
                        : _mm256_blendv_epi8(_mm256_srli_epi16(low, 8), high, odd);
}
template <int kPair>
inline I32x16 nf4_pair(Nf4Integers integers, I32x16 line) {
  return {nf4_pair<kPair>(integers, line.lo), nf4_pair<kPair>(integers, line.hi)};
}

inline __m256 pick(F32x16 table, __m256i index) {
  const __m256 is_upper = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.lo, index),
                          _mm256_permutevar8x32_ps(table.hi, index), is_upper);
}
inline F32x16 pick(F32x16 table, I32x16 index) { return {pick(table, index.lo), pick(table, index.hi)}; }
template <int kBits>
inline I32x16 shift_right(I32x16 a) {
  return {_mm256_srli_epi32(a.lo, kBits), _mm256_srli_epi32(a.hi, kBits)};
}

inline void look_up_dynamic_map(float* out, const uint8_t* codes, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = kDynamicMap[codes[i]];
}

#endif

}  // namespace
}  // namespace gpt2kit
