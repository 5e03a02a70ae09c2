#include "added_tokens.h"

#include <algorithm>
#include <cstring>

#include "unicode.h"
#include "vocabulary.h"

namespace gpt2kit {
namespace {

const uint8_t* as_bytes(const char* p) { return reinterpret_cast<const uint8_t*>(p); }

// Start of the character that ends at `at`, no earlier than `begin`.
size_t previous_char(std::string_view text, size_t begin, size_t at) {
  size_t start = at - 1;
  while (start > begin && at - start < 4 && is_continuation(static_cast<uint8_t>(text[start]))) --start;
  return start;
}

Char char_at(std::string_view text, size_t at) {
  return read_char(as_bytes(text.data() + at), as_bytes(text.data() + text.size()));
}

bool is_word_before(std::string_view text, size_t begin, size_t at) {
  return at > begin && (char_at(text, previous_char(text, begin, at)).flags & kWordFlag) != 0;
}

bool is_word_at(std::string_view text, size_t at) {
  return at < text.size() && (char_at(text, at).flags & kWordFlag) != 0;
}

size_t skip_space_back(std::string_view text, size_t begin, size_t at) {
  while (at > begin) {
    const size_t start = previous_char(text, begin, at);
    if ((char_at(text, start).flags & kClassMask) != kSpace) break;
    at = start;
  }
  return at;
}

size_t skip_space(std::string_view text, size_t at) {
  while (at < text.size()) {
    const Char c = char_at(text, at);
    if ((c.flags & kClassMask) != kSpace) break;
    at += c.size;
  }
  return at;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens)
    : tokens_(std::move(tokens)),
      first_pass_(make_pass(tokens_, /*normalized=*/false)),
      second_pass_(make_pass(tokens_, /*normalized=*/true)) {
  std::sort(tokens_.begin(), tokens_.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
}

const AddedToken* AddedTokens::find(int64_t id) const {
  const auto found =
      std::lower_bound(tokens_.begin(), tokens_.end(), id,
                       [](const AddedToken& token, int64_t value) { return token.id < value; });
  return found != tokens_.end() && found->id == id ? &*found : nullptr;
}

AddedTokens::Pass AddedTokens::make_pass(const std::vector<AddedToken>& tokens, bool normalized) {
  Pass pass;
  for (const AddedToken& token : tokens) {
    if (token.normalized != normalized || token.content.empty()) continue;
    pass.tokens.push_back(token);
    pass.starts[static_cast<uint8_t>(token.content[0])] = true;
  }
  std::sort(pass.tokens.begin(), pass.tokens.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.content < b.content; });
  if (std::count(pass.starts, pass.starts + 256, true) == 1)
    pass.only_start = static_cast<int>(std::find(pass.starts, pass.starts + 256, true) - pass.starts);
  return pass;
}

// Narrows the sorted tokens by one byte of the text at a time; the first of a range is the shortest.
const AddedToken* AddedTokens::longest_at(const Pass& pass, std::string_view text, size_t at) {
  auto low = pass.tokens.begin();
  auto high = pass.tokens.end();
  const AddedToken* longest = nullptr;
  for (size_t depth = 0; at + depth < text.size(); ++depth) {
    const auto byte = static_cast<uint8_t>(text[at + depth]);
    low = std::lower_bound(low, high, byte, [&](const AddedToken& token, uint8_t value) {
      return token.content.size() <= depth || static_cast<uint8_t>(token.content[depth]) < value;
    });
    high = std::upper_bound(low, high, byte, [&](uint8_t value, const AddedToken& token) {
      return value < static_cast<uint8_t>(token.content[depth]);
    });
    if (low == high) break;
    if (low->content.size() == depth + 1) longest = &*low;
  }
  return longest;
}

void AddedTokens::split_pass(const Pass& pass, std::string_view text, Stretch range, bool split_special,
                             std::vector<Stretch>& stretches) {
  // Neighbours are looked at within the range only, as if it were the whole text.
  const std::string_view part = text.substr(0, range.end);
  size_t done = range.begin;
  for (size_t at = range.begin; at < range.end;) {
    if (pass.only_start >= 0) {
      const void* found = std::memchr(part.data() + at, pass.only_start, range.end - at);
      if (!found) break;
      at = static_cast<size_t>(static_cast<const char*>(found) - part.data());
    } else if (!pass.starts[static_cast<uint8_t>(part[at])]) {
      ++at;
      continue;
    }
    const AddedToken* token = longest_at(pass, part, at);
    if (!token) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + token->content.size();
    at = end;
    if (token->special && split_special) continue;
    if (token->single_word && (is_word_before(part, range.begin, begin) || is_word_at(part, end))) continue;
    if (token->lstrip) begin = skip_space_back(part, range.begin, begin);
    if (token->rstrip) end = skip_space(part, end);
    begin = std::max(begin, done);
    if (begin >= end) continue;
    if (done < begin) stretches.push_back({done, begin, kNoToken});
    stretches.push_back({begin, end, token->id});
    done = end;
  }
  if (done < range.end) stretches.push_back({done, range.end, kNoToken});
}

void AddedTokens::split(std::string_view text, bool split_special, std::vector<Stretch>& stretches) const {
  stretches.clear();
  const Stretch all{0, text.size(), kNoToken};
  if (second_pass_.tokens.empty()) return split_pass(first_pass_, text, all, split_special, stretches);
  std::vector<Stretch> first;
  split_pass(first_pass_, text, all, split_special, first);
  for (const Stretch& stretch : first) {
    if (stretch.id == kNoToken) {
      split_pass(second_pass_, text, stretch, split_special, stretches);
    } else {
      stretches.push_back(stretch);
    }
  }
}

}  // namespace gpt2kit
