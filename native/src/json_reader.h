#pragma once

// A strict, allocation-shy reader for the few JSON shapes in which vocabularies are stored.
// Every error is a VocabularyError that says what was expected and at which byte.

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace gpt2kit {

// A vocabulary that is damaged or hostile; the message says what is wrong.
struct VocabularyError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

struct Span {
  size_t begin = 0;
  size_t end = 0;
};

class JsonReader {
 public:
  // The text must outlive the reader. Throws if it is not UTF-8.
  explicit JsonReader(std::string_view text);

  // Skips white space; true and moves past c if it is next.
  bool take(char c);
  void expect(char c);  // take or throw
  void expect_end();    // throws if anything but white space is left

  // A string. The view lives until the next call (it points into the text, or to an internal buffer).
  std::string_view string();
  // An integer from 0 to limit. `name` is what the error calls it.
  uint32_t integer(uint32_t limit, std::string_view name);
  // Any value; nesting deeper than 64 is an error. Returns where it stands.
  Span skip_value();

  size_t position() const { return static_cast<size_t>(p_ - begin_); }
  [[noreturn]] void fail(const std::string& what) const;

 private:
  void skip_space();
  void escape();  // appends the character after a backslash to buffer_
  uint32_t hex4();
  void skip_literal();

  const char* begin_;
  const char* p_;
  const char* end_;
  std::string buffer_;
};

// Throws VocabularyError naming the first byte that is not UTF-8.
void check_utf8(std::string_view text);

// Appends a code point as UTF-8.
void append_utf8(std::string& out, uint32_t code_point);

// A string for an error message: quoted, cut to 40 bytes at a character border.
std::string quoted(std::string_view text);

// Where "vocab" and "merges" of the "model" object stand in a tokenizer.json. A missing one has an empty
// span.
struct ModelSpans {
  Span vocab;
  Span merges;
};
ModelSpans find_model_spans(std::string_view tokenizer_json);

}  // namespace gpt2kit
