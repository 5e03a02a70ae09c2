#pragma once

// Splits text into pieces exactly as GPT-2's pattern does:
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// One pass, no backtracking: every byte is looked at a bounded number of times.

#include <cstdint>

#include "unicode.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace gpt2kit {

// Class of each ASCII byte; 4 (no class) for bytes from 0x80 up.
struct AsciiClasses {
  uint8_t of[256];
};
constexpr AsciiClasses make_ascii_classes() {
  AsciiClasses table{};
  for (int c = 0; c < 256; ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool number = c >= '0' && c <= '9';
    const bool space = c == ' ' || (c >= '\t' && c <= '\r');
    table.of[c] = c >= 0x80 ? 4 : letter ? kLetter : number ? kNumber : space ? kSpace : kOther;
  }
  return table;
}
inline constexpr AsciiClasses kAscii = make_ascii_classes();

inline uint8_t class_at(const uint8_t* p, const uint8_t* end, uint8_t& size) {
  const uint8_t ascii = kAscii.of[*p];
  if (ascii < 4) {
    size = 1;
    return ascii;
  }
  const Char c = read_char(p, end);
  size = c.size;
  return c.flags & kClassMask;
}

// First position at or after p that is not an ASCII letter.
inline const uint8_t* skip_ascii_letters(const uint8_t* p, const uint8_t* end) {
#if defined(__SSE2__)
  const __m128i case_bit = _mm_set1_epi8(0x20);
  // c - 'a' as unsigned is below 26 for letters; SSE2 compares signed bytes, so shift the range to -128.
  const __m128i shift = _mm_set1_epi8(static_cast<char>('a' + 128));
  const __m128i limit = _mm_set1_epi8(-128 + 26);
  while (end - p >= 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m128i folded = _mm_sub_epi8(_mm_or_si128(bytes, case_bit), shift);
    const unsigned letters = static_cast<unsigned>(_mm_movemask_epi8(_mm_cmplt_epi8(folded, limit)));
    if (letters != 0xFFFF) return p + __builtin_ctz(~letters);
    p += 16;
  }
#endif
  while (p < end && kAscii.of[*p] == kLetter) ++p;
  return p;
}

// End of the run of characters of one class that starts at p.
template <uint8_t kClass>
inline const uint8_t* skip_class(const uint8_t* p, const uint8_t* end) {
  for (;;) {
    if (kClass == kLetter) {
      p = skip_ascii_letters(p, end);
    } else {
      while (p < end && kAscii.of[*p] == kClass) ++p;
    }
    if (p == end || *p < 0x80) return p;
    const Char c = read_char(p, end);
    if ((c.flags & kClassMask) != kClass) return p;
    p += c.size;
  }
}

// Length of the contraction at p, which holds an apostrophe; 0 if there is none.
inline int contraction(const uint8_t* p, const uint8_t* end) {
  if (end - p < 2) return 0;
  const uint8_t a = p[1];
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if (end - p < 3) return 0;
  const uint8_t b = p[2];
  return ((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

// `\s+(?!\S)|\s+`: the run of white space at p, without its last character if something follows and
// something is left.
inline const uint8_t* white_space_piece(const uint8_t* p, const uint8_t* end) {
  const uint8_t* last = p;  // start of the last character of the run
  const uint8_t* q = p;
  while (q < end) {
    uint8_t size;
    if (class_at(q, end, size) != kSpace) return last == p ? q : last;
    last = q;
    q += size;
  }
  return end;
}

// End of the piece that starts at p. p < end.
inline const uint8_t* next_piece(const uint8_t* p, const uint8_t* end) {
  const uint8_t* q = p + (*p == ' ' && p + 1 < end);
  uint8_t size;
  switch (class_at(q, end, size)) {
    case kLetter:
      return skip_class<kLetter>(q + size, end);
    case kNumber:
      return skip_class<kNumber>(q + size, end);
    case kSpace:
      return white_space_piece(p, end);
    default:
      if (*p == '\'') {
        if (const int length = contraction(p, end)) return p + length;
      }
      return skip_class<kOther>(q + size, end);
  }
}

}  // namespace gpt2kit
