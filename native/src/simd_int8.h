// Sixteen int32 lanes, or 64 bytes of codes, as one AVX-512 register or two AVX2 registers. See simd.h.

#pragma once

#include <algorithm>

#include "simd.h"

namespace gpt2kit {
namespace {

inline int32_t four_bytes(const void* p) {
  int32_t bits;
  std::memcpy(&bits, p, 4);
  return bits;
}

#ifdef __AVX512VNNI__

struct I32x16 {
  __m512i v;
};

inline I32x16 load_bytes(const void* p) { return {_mm512_loadu_si512(p)}; }
inline void store(int32_t* p, I32x16 a) { _mm512_storeu_si512(p, a.v); }
inline I32x16 set1_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
// The bytes 0, 2 of each four, or 1, 3, as numbers of 16 bits.
inline I32x16 even_bytes(I32x16 a) { return {_mm512_and_si512(a.v, _mm512_set1_epi32(0x00ff00ff))}; }
inline I32x16 odd_bytes(I32x16 a) { return {_mm512_srli_epi16(a.v, 8)}; }
// sum + the products of both pairs of 16-bit numbers in each lane.
inline I32x16 add_products(I32x16 sum, I32x16 a, I32x16 b) { return {_mm512_dpwssd_epi32(sum.v, a.v, b.v)}; }
inline I32x16 operator+(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline F32x16 to_float(I32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline I32x16 round_to_int(F32x16 a) { return {_mm512_cvtps_epi32(a.v)}; }  // ties to even
inline I32x16 magnitude_bits(F32x16 a) {
  return {_mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x7fffffff))};
}
inline I32x16 max(I32x16 a, I32x16 b) { return {_mm512_max_epi32(a.v, b.v)}; }
inline __m256i narrow(I32x16 a) { return _mm512_cvtsepi32_epi16(a.v); }
inline int32_t reduce_add(I32x16 a) { return _mm512_reduce_add_epi32(a.v); }
inline int32_t reduce_max(I32x16 a) { return _mm512_reduce_max_epi32(a.v); }

// A line of unsigned codes, and the four signed bytes that meet each four of it.
using ByteLine = I32x16;
using FourBytes = I32x16;
inline ByteLine load_line(const void* p) { return load_bytes(p); }
inline FourBytes set1_four(const int8_t* p) { return set1_int(four_bytes(p)); }
inline I32x16 add_byte_products(I32x16 sum, ByteLine line, FourBytes four) {
  return {_mm512_dpbusd_epi32(sum.v, line.v, four.v)};
}
inline void store_bytes(int8_t* p, I32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(a.v));
}

#else

struct I32x16 {
  __m256i lo, hi;
};

inline I32x16 load_bytes(const void* p) {
  const auto* halves = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)};
}
inline void store(int32_t* p, I32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.lo);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), a.hi);
}
inline I32x16 set1_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline I32x16 even_bytes(I32x16 a) {
  const __m256i mask = _mm256_set1_epi32(0x00ff00ff);
  return {_mm256_and_si256(a.lo, mask), _mm256_and_si256(a.hi, mask)};
}
inline I32x16 odd_bytes(I32x16 a) { return {_mm256_srli_epi16(a.lo, 8), _mm256_srli_epi16(a.hi, 8)}; }
inline I32x16 operator+(I32x16 a, I32x16 b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
inline I32x16 add_products(I32x16 sum, I32x16 a, I32x16 b) {
  return sum + I32x16{_mm256_madd_epi16(a.lo, b.lo), _mm256_madd_epi16(a.hi, b.hi)};
}
#ifdef __AVX512F__
#error "compile this file for AVX-512 with VNNI or for AVX2"
#endif
inline F32x16 to_float(I32x16 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
inline I32x16 round_to_int(F32x16 a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
inline I32x16 magnitude_bits(F32x16 a) {
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  return {_mm256_and_si256(_mm256_castps_si256(a.lo), mask),
          _mm256_and_si256(_mm256_castps_si256(a.hi), mask)};
}
inline I32x16 max(I32x16 a, I32x16 b) { return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)}; }
inline __m256i narrow(I32x16 a) {
  return _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0b11011000);
}
inline int32_t reduce_add(I32x16 a) {
  alignas(64) int32_t lanes[kLanes];
  store(lanes, a);
  int32_t sum = 0;
  for (const int32_t lane : lanes) sum += lane;
  return sum;
}
inline int32_t reduce_max(I32x16 a) {
  alignas(64) int32_t lanes[kLanes];
  store(lanes, a);
  return *std::max_element(lanes, lanes + kLanes);
}

// As pairs of 16 bits: the instruction that multiplies bytes saturates.
struct ByteLine {
  I32x16 even, odd;
};
struct FourBytes {
  __m256i even, odd;
};
inline ByteLine load_line(const void* p) {
  const I32x16 line = load_bytes(p);
  return {even_bytes(line), odd_bytes(line)};
}
inline FourBytes set1_four(const int8_t* p) {
  const __m256i four = _mm256_set1_epi32(four_bytes(p));
  return {_mm256_srai_epi16(_mm256_slli_epi16(four, 8), 8), _mm256_srai_epi16(four, 8)};
}
inline I32x16 add_byte_products(I32x16 sum, const ByteLine& line, const FourBytes& four) {
  return add_products(add_products(sum, line.even, {four.even, four.even}), line.odd, {four.odd, four.odd});
}
inline void store_bytes(int8_t* p, I32x16 a) {
  const __m256i words = narrow(a);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

#endif

// Sixteen numbers in 16 bits, each four in the order 0, 2, 1, 3.
inline void store_fours(int16_t* p, I32x16 a) {
  const __m256i order =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_shuffle_epi8(narrow(a), order));
}

inline I32x16 set1_pair(const int16_t* pair) { return set1_int(four_bytes(pair)); }

}  // namespace
}  // namespace gpt2kit
