#include "json_reader.h"

#include <cstring>

#include "unicode.h"

namespace gpt2kit {
namespace {

constexpr int kMaxDepth = 64;

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

bool is_surrogate(uint32_t c, uint32_t first) { return c >= first && c < first + 0x400; }

}  // namespace

void check_utf8(std::string_view text) {
  const auto* p = reinterpret_cast<const uint8_t*>(text.data());
  const uint8_t* const begin = p;
  const uint8_t* const end = p + text.size();
  while (p < end) {
    uint64_t word;
    if (end - p >= 8 && (std::memcpy(&word, p, 8), (word & 0x8080808080808080u) == 0)) {
      p += 8;
      continue;
    }
    const Char c = read_char(p, end);
    if (c.size == 1 && *p >= 0x80)
      throw VocabularyError("byte " + std::to_string(p - begin) + " is not UTF-8");
    p += c.size;
  }
}

void append_utf8(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

std::string quoted(std::string_view text) {
  size_t size = text.size();
  if (size > 40) {
    size = 40;
    while (size > 0 && is_continuation(static_cast<uint8_t>(text[size]))) --size;
  }
  return "'" + std::string(text.substr(0, size)) + (size < text.size() ? "...'" : "'");
}

JsonReader::JsonReader(std::string_view text)
    : begin_(text.data()), p_(text.data()), end_(text.data() + text.size()) {
  check_utf8(text);
}

void JsonReader::fail(const std::string& what) const {
  throw VocabularyError(what +
                        (p_ < end_ ? " at byte " + std::to_string(position()) : ", but the file ends"));
}

void JsonReader::skip_space() {
  while (p_ < end_ && is_space(*p_)) ++p_;
}

bool JsonReader::take(char c) {
  skip_space();
  if (p_ == end_ || *p_ != c) return false;
  ++p_;
  return true;
}

void JsonReader::expect(char c) {
  if (!take(c)) fail(std::string("expected '") + c + "'");
}

void JsonReader::expect_end() {
  skip_space();
  if (p_ < end_) fail("unexpected data after the end of the JSON document");
}

std::string_view JsonReader::string() {
  expect('"');
  const char* start = p_;
  for (; p_ < end_ && *p_ != '"' && *p_ != '\\'; ++p_) {
    if (static_cast<uint8_t>(*p_) < 0x20) fail("control character in a string");
  }
  if (p_ < end_ && *p_ == '"') return {start, static_cast<size_t>(p_++ - start)};
  buffer_.assign(start, p_);
  while (p_ < end_ && *p_ != '"') {
    if (static_cast<uint8_t>(*p_) < 0x20) fail("control character in a string");
    if (*p_ != '\\') {
      buffer_ += *p_++;
      continue;
    }
    ++p_;
    escape();
  }
  expect('"');
  return buffer_;
}

void JsonReader::escape() {
  if (p_ == end_) fail("unfinished escape");
  const char c = *p_++;
  static constexpr char kFrom[] = "\"\\/bfnrt";
  static constexpr char kTo[] = "\"\\/\b\f\n\r\t";
  if (const char* found = static_cast<const char*>(std::memchr(kFrom, c, sizeof(kFrom) - 1))) {
    buffer_ += kTo[found - kFrom];
    return;
  }
  if (c != 'u') fail("unknown escape");
  uint32_t unit = hex4();
  if (is_surrogate(unit, 0xD800) && end_ - p_ >= 2 && p_[0] == '\\' && p_[1] == 'u') {
    p_ += 2;
    const uint32_t low = hex4();
    if (!is_surrogate(low, 0xDC00)) fail("lone surrogate in a string");
    unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
  } else if (unit >= 0xD800 && unit < 0xE000) {
    fail("lone surrogate in a string");
  }
  append_utf8(buffer_, unit);
}

uint32_t JsonReader::hex4() {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) {
    if (p_ == end_) fail("unfinished escape");
    const char c = *p_++;
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) fail("bad \\u escape");
    value = value << 4 | static_cast<uint32_t>(digit);
  }
  return value;
}

uint32_t JsonReader::integer(uint32_t limit, std::string_view name) {
  skip_space();
  const char* start = p_;
  uint64_t value = 0;
  while (p_ < end_ && *p_ >= '0' && *p_ <= '9' && value <= limit)
    value = value * 10 + static_cast<uint64_t>(*p_++ - '0');
  const bool ends = p_ < end_ && (is_space(*p_) || *p_ == ',' || *p_ == '}' || *p_ == ']');
  const bool leading_zero = p_ - start > 1 && *start == '0';
  if (p_ == start || value > limit || leading_zero || !ends) {
    const char* stop = start;
    while (stop < end_ && stop - start < 24 && *stop != ',' && *stop != '}' && *stop != '\n') ++stop;
    p_ = start;
    fail(std::string(name) + " is " + quoted({start, static_cast<size_t>(stop - start)}) +
         ", not an integer from 0 to " + std::to_string(limit));
  }
  return static_cast<uint32_t>(value);
}

void JsonReader::skip_literal() {
  const char* start = p_;
  while (p_ < end_ && !is_space(*p_) && !std::strchr(",]}[{:\"", *p_)) ++p_;
  if (p_ == start) fail("expected a value");
}

Span JsonReader::skip_value() {
  skip_space();
  const size_t begin = position();
  char closing[kMaxDepth];
  int depth = 0;
  for (;;) {
    skip_space();
    if (p_ == end_) fail("expected a value");
    if (*p_ == '{' || *p_ == '[') {
      if (depth == kMaxDepth) fail("nested deeper than " + std::to_string(kMaxDepth));
      closing[depth++] = *p_++ == '{' ? '}' : ']';
      if (take(closing[depth - 1])) {
        --depth;
      } else {
        if (closing[depth - 1] == '}') string(), expect(':');
        continue;
      }
    } else if (*p_ == '"') {
      string();
    } else {
      skip_literal();
    }
    // A value has ended: close what ends with it, or go on to the next member.
    while (depth > 0 && take(closing[depth - 1])) --depth;
    if (depth == 0) return {begin, position()};
    expect(',');
    if (closing[depth - 1] == '}') string(), expect(':');
  }
}

ModelSpans find_model_spans(std::string_view text) {
  JsonReader reader(text);
  ModelSpans spans;
  bool has_model = false;
  reader.expect('{');
  if (!reader.take('}')) {
    do {
      const bool is_model = reader.string() == "model";
      reader.expect(':');
      if (!is_model) {
        reader.skip_value();
        continue;
      }
      if (has_model) reader.fail("a second \"model\"");
      has_model = true;
      reader.expect('{');
      if (reader.take('}')) continue;
      do {
        const std::string key(reader.string());
        reader.expect(':');
        const Span span = reader.skip_value();
        Span* slot = key == "vocab" ? &spans.vocab : key == "merges" ? &spans.merges : nullptr;
        if (slot && slot->end != 0) reader.fail("a second " + quoted(key));
        if (slot) *slot = span;
      } while (reader.take(','));
      reader.expect('}');
    } while (reader.take(','));
    reader.expect('}');
  }
  reader.expect_end();
  return spans;
}

}  // namespace gpt2kit
