#pragma once

// Character classes of GPT-2's pattern and strict UTF-8 decoding.

#include <cstdint>

namespace gpt2kit {

enum CharClass : uint8_t { kOther = 0, kLetter = 1, kNumber = 2, kSpace = 3 };
constexpr uint8_t kClassMask = 3;
constexpr uint8_t kWordFlag = 4;  // \w: what single_word added tokens may not touch

// Two-stage table, generated: flags(c) = kUnicodeBlocks[kUnicodeBlockOf[c >> 8]][c & 255].
extern const uint8_t kUnicodeBlockOf[4352];
extern const uint8_t kUnicodeBlocks[][256];

inline uint8_t char_flags(uint32_t code_point) {
  return kUnicodeBlocks[kUnicodeBlockOf[code_point >> 8]][code_point & 255];
}

// One decoded character. Bytes that are not UTF-8 (as Python's strict decoder sees it) become characters of
// one byte each, of class kOther.
struct Char {
  uint8_t flags;
  uint8_t size;  // bytes, 1 to 4
};

inline bool is_continuation(uint8_t byte) { return (byte & 0xC0) == 0x80; }

// p < end. Reads at most 4 bytes and never past end.
inline Char read_char(const uint8_t* p, const uint8_t* end) {
  const uint32_t b0 = p[0];
  if (b0 < 0x80) return {kUnicodeBlocks[kUnicodeBlockOf[0]][b0], 1};
  constexpr Char kInvalid = {kOther, 1};
  const auto available = end - p;
  if (b0 < 0xE0) {
    if (b0 < 0xC2 || available < 2 || !is_continuation(p[1])) return kInvalid;
    return {char_flags((b0 & 0x1F) << 6 | (p[1] & 0x3F)), 2};
  }
  if (b0 < 0xF0) {
    if (available < 3 || !is_continuation(p[1]) || !is_continuation(p[2])) return kInvalid;
    const uint32_t c = (b0 & 0x0F) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
    if (c < 0x800 || (c >= 0xD800 && c < 0xE000)) return kInvalid;
    return {char_flags(c), 3};
  }
  if (b0 > 0xF4 || available < 4 || !is_continuation(p[1]) || !is_continuation(p[2]) ||
      !is_continuation(p[3]))
    return kInvalid;
  const uint32_t c = (b0 & 0x07) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
  if (c < 0x10000 || c >= 0x110000) return kInvalid;
  return {char_flags(c), 4};
}

}  // namespace gpt2kit
