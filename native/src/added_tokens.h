#pragma once

// Tokens that are found in the text before it is split into pieces: special tokens and those that users add.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace gpt2kit {

struct AddedToken {
  std::string content;
  int32_t id;
  bool single_word;  // only where neither neighbour is a word character
  bool lstrip;       // takes the white space before it
  bool rstrip;       // takes the white space after it
  bool special;      // ordinary text when special tokens are to be split
  bool normalized;   // looked for only in what the others have left
};

// A stretch of the text: an added token, or ordinary text between them (id == kNoToken).
struct Stretch {
  size_t begin;
  size_t end;
  int32_t id;
};

class AddedTokens {
 public:
  AddedTokens() = default;
  explicit AddedTokens(std::vector<AddedToken> tokens);

  bool empty() const { return first_pass_.tokens.empty() && second_pass_.tokens.empty(); }

  // Cuts the text at the added tokens: leftmost first, the longest of those that start together. Tokens with
  // `special` are not looked for if split_special. Nothing of the text is lost; no stretch is empty.
  void split(std::string_view text, bool split_special, std::vector<Stretch>& stretches) const;

  // Null if there is none with this id.
  const AddedToken* find(int64_t id) const;

 private:
  struct Pass {
    std::vector<AddedToken> tokens;  // sorted by content
    bool starts[256] = {};           // bytes that some token starts with
    int only_start = -1;             // that byte, if there is just one
  };
  static Pass make_pass(const std::vector<AddedToken>& tokens, bool normalized);
  static const AddedToken* longest_at(const Pass& pass, std::string_view text, size_t at);
  static void split_pass(const Pass& pass, std::string_view text, Stretch range, bool split_special,
                         std::vector<Stretch>& stretches);

  std::vector<AddedToken> tokens_;  // sorted by id
  Pass first_pass_;
  Pass second_pass_;
};

}  // namespace gpt2kit
