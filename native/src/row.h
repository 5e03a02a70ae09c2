// What generation knows of the texts it continues: prompts, the rows that grow from them, and how a row's
// next token is chosen.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "forward.h"
#include "sampling.h"

namespace gpt2kit {

struct Prompt {
  std::vector<int32_t> token_ids;  // at least one
  int64_t max_new_tokens;          // at least 1
  int64_t min_new_tokens;
  uint64_t seed;
};

// What a model has cached of a text.
struct Window {
  std::shared_ptr<KvCache> cache;
  int64_t start = 0;  // index of the first token that the cache holds

  // The tokens of the text that the cache has not seen, at least one. A text that outgrows n_positions is run
  // again from a later start.
  Work pending(const std::vector<int32_t>& text, int64_t n_positions);
  Window copy() const { return {std::make_shared<KvCache>(*cache), start}; }
};

// What guessing remembers of a row; see speculation.h.
struct RowGuesses {
  int64_t num_tokens = 0;          // the most to guess; a schedule changes it
  int64_t guessed = 0, right = 0;  // so far
  std::vector<int32_t> predicted;  // what lookup expects to follow, checked or not
  int64_t evidence = 0;            // how many tokens of the text spoke for it
  Window window;                   // a draft model's
  std::vector<int32_t> drafted;    // the text that the draft model has seen
};

struct Row {
  int64_t prompt, index;  // index among the prompt's num_return_sequences
  Window window;
  std::vector<int32_t> token_ids;  // prompt and new ids
  RowGuesses guesses;
};

// Where the context of the next token begins in a text of this length: 0 as long as n_positions hold it, then
// later by half of them each time they are full. generation/window.py says why.
int64_t window_start(int64_t length, int64_t n_positions);

// Chooses the tokens of all rows of one generation, which it may not outlive.
class Chooser {
 public:
  Chooser(const std::vector<Prompt>& prompts, const SamplingOptions& options, int64_t vocab_size)
      : prompts_(prompts), options_(options), scores_(static_cast<size_t>(vocab_size)) {}

  const std::vector<Prompt>& prompts() const { return prompts_; }
  int64_t num_new(const Row& row) const {
    return static_cast<int64_t>(row.token_ids.size() - prompts_[row.prompt].token_ids.size());
  }
  // True for an end token.
  bool is_end(int32_t id) const;

  // The logits that choose() will look at for the row's next tokens, as long as a guess is right; or nothing
  // if that may be all.
  std::optional<NeededLogits> needed(const Row& row, const std::vector<int32_t>& guess) const;
  // The row's token after `text`, its tokens or those and a guess. logits (V). Throws NoChoice.
  int32_t choose(const Row& row, const std::vector<int32_t>& text, const float* logits);
  // How probable that token was among the scores it was chosen from.
  double probability() const { return sampler_.probability(options_, scores_.data(), vocab_size()); }

 private:
  int64_t vocab_size() const { return static_cast<int64_t>(scores_.size()); }

  const std::vector<Prompt>& prompts_;
  const SamplingOptions& options_;
  std::vector<float> scores_;
  Sampler sampler_;
};

}  // namespace gpt2kit
