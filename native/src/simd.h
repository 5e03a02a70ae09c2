// Sixteen float32 lanes, as one AVX-512 register or two AVX2 registers. The only file with intrinsics.
//
// A translation unit picks its instruction set by its compiler flags. Everything lives in an anonymous
// namespace so that the linker can never give one unit another's code. Both versions round alike.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "weights.h"

namespace gpt2kit {
namespace {

constexpr int kLanes = 16;

#ifdef __AVX512F__

struct F32x16 {
  __m512 v;
};

inline F32x16 zero() { return {_mm512_setzero_ps()}; }
inline F32x16 set1(float x) { return {_mm512_set1_ps(x)}; }
inline F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F32x16 a) { _mm512_storeu_ps(p, a.v); }
inline __mmask16 first(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }  // n in [0, 16)
// The first n lanes from memory, the others zero; memory beyond them is not touched.
inline F32x16 load_first(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
inline void store_first(float* p, F32x16 a, int64_t n) { _mm512_mask_storeu_ps(p, first(n), a.v); }
inline F32x16 keep_first(F32x16 a, int64_t n, F32x16 other) {
  return {_mm512_mask_blend_ps(first(n), other.v, a.v)};
}

inline F32x16 widen16(__m256i bits, BFloat16) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
inline F32x16 widen16(__m256i bits, Float16) { return {_mm512_cvtph_ps(bits)}; }
// Sixteen values of a short format, or the first n and zeros.
template <typename Short>
inline F32x16 load(const Short* p) {
  return widen16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), Short{});
}
template <typename Short>
inline F32x16 load_first(const Short* p, int64_t n) {
  return widen16(_mm256_maskz_loadu_epi16(first(n), p), Short{});
}

inline F32x16 load(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
// The first n <= 16 lanes as whole numbers, ties to even, which must fit in 8 bits.
inline void store_codes(int8_t* p, F32x16 a, int64_t n) {
  const __m128i codes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v));
  n == kLanes ? _mm_storeu_si128(reinterpret_cast<__m128i*>(p), codes)
              : _mm_mask_storeu_epi8(p, first(n), codes);
}
// The first n <= 16 lanes as round_to_bfloat16() of bfloat16_scalar.h rounds them.
inline void store_rounded(BFloat16* p, F32x16 a, int64_t n) {
#ifdef __AVX512BF16__
  const auto rounded = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a.v));
#else
  const __m512i bits = _mm512_castps_si512(a.v), upper = _mm512_srli_epi32(bits, 16);
  const __m512i to_even = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  __m512i lanes = _mm512_add_epi32(bits, _mm512_add_epi32(to_even, _mm512_set1_epi32(0x7fff)));
  lanes = _mm512_srli_epi32(lanes, 16);
  const __mmask16 small = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(0x7f800000));
  lanes = _mm512_mask_and_epi32(lanes, small, upper, _mm512_set1_epi32(0x8000));
  const __mmask16 unordered = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  lanes = _mm512_mask_or_epi32(lanes, unordered, upper, _mm512_set1_epi32(0x40));
  const __m256i rounded = _mm512_cvtepi32_epi16(lanes);
#endif
  if (n == kLanes) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), rounded);
  } else {
    _mm256_mask_storeu_epi16(p, first(n), rounded);
  }
}

inline F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// Both return the second operand where either is not a number.
inline F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32x16 round_even(F32x16 a) { return {_mm512_roundscale_ps(a.v, 8)}; }
inline F32x16 zero_where_less(F32x16 test, float bound, F32x16 a) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(test.v, _mm512_set1_ps(bound), _CMP_NLT_UQ), a.v)};
}
// a * 2^n for whole n, where neither the operand nor the result is subnormal.
inline F32x16 scale_by_power(F32x16 a, F32x16 n) {
  const __m512i shift = _mm512_slli_epi32(_mm512_cvtps_epi32(n.v), 23);
  return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), shift))};
}
inline __m256 add_halves(F32x16 a) {
  return _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
}
inline __m256 max_halves(F32x16 a) {
  return _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
}

#else

struct F32x16 {
  __m256 lo, hi;
};

inline F32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F32x16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F32x16 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
inline __m256i first8(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
// The first n lanes from memory, the others zero; memory beyond them is not touched.
inline F32x16 load_first(const float* p, int64_t n) {
  return {_mm256_maskload_ps(p, first8(n)), _mm256_maskload_ps(p + 8, first8(n - 8))};
}
inline void store_first(float* p, F32x16 a, int64_t n) {
  _mm256_maskstore_ps(p, first8(n), a.lo);
  _mm256_maskstore_ps(p + 8, first8(n - 8), a.hi);
}
inline F32x16 keep_first(F32x16 a, int64_t n, F32x16 other) {
  return {_mm256_blendv_ps(other.lo, a.lo, _mm256_castsi256_ps(first8(n))),
          _mm256_blendv_ps(other.hi, a.hi, _mm256_castsi256_ps(first8(n - 8)))};
}

inline __m256 widen8(__m128i bits, BFloat16) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline __m256 widen8(__m128i bits, Float16) { return _mm256_cvtph_ps(bits); }
// Sixteen values of a short format, or the first n and zeros.
template <typename Short>
inline F32x16 load(const Short* p) {
  const auto* halves = reinterpret_cast<const __m128i*>(p);
  return {widen8(_mm_loadu_si128(halves), Short{}), widen8(_mm_loadu_si128(halves + 1), Short{})};
}
template <typename Short>
inline F32x16 load_first(const Short* p, int64_t n) {
  Short lanes[kLanes] = {};
  std::memcpy(lanes, p, static_cast<size_t>(n) * sizeof(Short));
  return load(lanes);
}

inline F32x16 load(const int8_t* p) {
  const auto widen = [](const int8_t* eight) {
    const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(eight));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
  };
  return {widen(p), widen(p + 8)};
}
// The first n <= 16 lanes as whole numbers, ties to even, which must fit in 8 bits.
inline void store_codes(int8_t* p, F32x16 a, int64_t n) {
  const __m256i words =
      _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)), 0xd8);
  const __m128i codes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  std::memcpy(p, &codes, static_cast<size_t>(n));
}
inline __m256i round8(__m256 x) {  // to the lower 16 bits of each lane
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i exponent = _mm256_and_si256(bits, _mm256_set1_epi32(0x7f800000));
  const __m256i upper = _mm256_srli_epi32(bits, 16);
  const __m256i to_even = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(to_even, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i small = _mm256_cmpeq_epi32(exponent, _mm256_setzero_si256());
  const __m256i sign = _mm256_and_si256(upper, _mm256_set1_epi32(0x8000));
  const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  const __m256i unordered = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(_mm256_blendv_epi8(rounded, sign, small), quiet, unordered);
}
// The first n <= 16 lanes as round_to_bfloat16() of bfloat16_scalar.h rounds them.
inline void store_rounded(BFloat16* p, F32x16 x, int64_t n) {
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(round8(x.lo), round8(x.hi)), 0xd8);
  if (n == kLanes) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), packed);
  } else {
    BFloat16 values[kLanes];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(values), packed);
    std::memcpy(p, values, static_cast<size_t>(n) * sizeof(BFloat16));
  }
}

inline F32x16 operator+(F32x16 a, F32x16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline F32x16 operator-(F32x16 a, F32x16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline F32x16 operator*(F32x16 a, F32x16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline F32x16 operator/(F32x16 a, F32x16 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
// Both return the second operand where either is not a number.
inline F32x16 max(F32x16 a, F32x16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline F32x16 min(F32x16 a, F32x16 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline F32x16 round_even(F32x16 a) { return {_mm256_round_ps(a.lo, 8), _mm256_round_ps(a.hi, 8)}; }
inline F32x16 zero_where_less(F32x16 test, float bound, F32x16 a) {
  const __m256 b = _mm256_set1_ps(bound);
  return {_mm256_and_ps(_mm256_cmp_ps(test.lo, b, _CMP_NLT_UQ), a.lo),
          _mm256_and_ps(_mm256_cmp_ps(test.hi, b, _CMP_NLT_UQ), a.hi)};
}
// a * 2^n for whole n, where neither the operand nor the result is subnormal.
inline F32x16 scale_by_power(F32x16 a, F32x16 n) {
  const auto scale = [](__m256 x, __m256 power) {
    const __m256i shift = _mm256_slli_epi32(_mm256_cvtps_epi32(power), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), shift));
  };
  return {scale(a.lo, n.lo), scale(a.hi, n.hi)};
}
inline __m256 add_halves(F32x16 a) { return _mm256_add_ps(a.lo, a.hi); }
inline __m256 max_halves(F32x16 a) { return _mm256_max_ps(a.lo, a.hi); }

#endif

// The sum of the lanes, by halves: 16, 8, 4, 2, 1 (sum_lanes in scalar_math.h).
inline float reduce_add(F32x16 a) {
  const __m256 eight = add_halves(a);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

inline float reduce_max(F32x16 a) {
  const __m256 eight = max_halves(a);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
// For what is used once: it need not displace what the outer caches hold.
inline void prefetch_once(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_NTA); }

}  // namespace
}  // namespace gpt2kit
