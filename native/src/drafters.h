// Where guesses come from: the row's own text, or a smaller model of the same vocabulary.

#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "forward.h"
#include "payoff.h"
#include "row.h"

namespace gpt2kit {

// Tokens that matched are counted up to this many.
constexpr int64_t kMostEvidence = 16;

struct Lookup {
  std::vector<int32_t> token_ids;
  int64_t evidence;  // how many tokens before them match, the longer the likelier they are right
};

// num_tokens tokens that may follow the text: what followed its longest ending, of at most max_ngram tokens,
// where that last occurred. Where this reaches the end of the text, the text is taken to repeat itself. Empty
// if nothing matches.
Lookup look_up(const std::vector<int32_t>& text, int64_t max_ngram, int64_t num_tokens);

// Guesses with a model, under the same options and random numbers as the rows'.
class DraftModel {
 public:
  // A guess ends with the first token that is less probable than min_probability, and with an end token.
  DraftModel(Forward& forward, double min_probability, const Clock& clock)
      : forward_(forward), min_probability_(min_probability), clock_(clock) {}

  struct Wanted {
    Row* row;
    int64_t num_tokens;           // at least 1
    std::vector<int32_t>* guess;  // empty at first
  };
  void propose(std::vector<Wanted> wanted, Chooser& chooser);

  // How many tokens of a row the model's context has room to guess.
  int64_t room(const Row& row) const;
  const PassTimes& times() const { return times_; }
  // Seconds spent on tokens that the model had not followed, other than a row's first ones; since last asked.
  double catching_up_s() { return std::exchange(catching_up_s_, 0.0); }
  const ModelShape& shape() const { return forward_.model().shape; }

 private:
  void start(const std::vector<Wanted>& wanted, const Chooser& chooser);
  int64_t n_positions() const { return forward_.model().shape.n_positions; }

  Forward& forward_;
  const double min_probability_;
  const Clock& clock_;
  PassTimes times_;
  double catching_up_s_ = 0;
  std::vector<float> logits_;
};

}  // namespace gpt2kit
