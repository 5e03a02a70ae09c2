// Guessing several tokens and checking them in one pass: what is guessed, and when that pays. A guess decides
// how many tokens a pass can settle, never which ones: generate.cpp chooses each from the model's own scores
// with the random number of its position, as without guesses.

#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "drafters.h"
#include "payoff.h"
#include "row.h"

namespace gpt2kit {

double steady_seconds();

struct SpeculationOptions {
  int64_t num_tokens = 0;      // the longest guess; 0 is never to guess
  Forward* draft = nullptr;    // guesses, with the same vocabulary; null to look guesses up in the text
  int64_t max_ngram = 2;       // for looking up
  double min_probability = 0;  // of a drafted token; a guess ends with the first that has less
  bool is_constant = true;     // else a guess is 2 longer after one that was right, 1 shorter after others
  Clock clock = steady_seconds;
};

class Speculation {
 public:
  // model: what the guesses are for.
  Speculation(const SpeculationOptions& options, const ModelShape& model);

  // A guess, perhaps empty, for each of the rows that have a token to run. Begins a round.
  std::vector<std::vector<int32_t>> propose(const std::vector<Row*>& rows, Chooser& chooser);
  // A pass over so many tokens took so long, each the row's next one or of a guess.
  void timed(int64_t num_tokens, double seconds) { times_.add(num_tokens, seconds); }
  // The row has chosen num_new tokens after its guess. What it guessed is counted in row.guesses.
  void settled(Row& row, const std::vector<int32_t>& guess, int64_t num_new);

 private:
  using Guesses = std::vector<std::vector<int32_t>>;
  int64_t most(Row& row, const Chooser& chooser) const;
  Guesses look_up_all(const std::vector<Row*>& rows, const Chooser& chooser);
  Guesses draft_all(const std::vector<Row*>& rows, Chooser& chooser);
  void end_round();

  const SpeculationOptions options_;
  const int64_t n_positions_;
  std::optional<DraftModel> draft_;
  double draft_share_ = 0;  // of a pass of the model, as long as none was timed
  Chances chances_;
  PassTimes times_;

  // Of this round: rows, guessed tokens, chosen tokens, seconds of the draft model.
  int64_t num_rows_ = 0, num_guessed_ = 0, num_chosen_ = 0;
  double draft_s_ = 0;
  // Of all rounds: seconds, and those of them that guesses have cost more than they saved.
  double elapsed_s_ = 0, lost_s_ = 0;
};

}  // namespace gpt2kit
