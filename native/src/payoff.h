// How many guessed tokens are worth checking: what passes cost, how often guesses were right, and the plan
// that settles most tokens in a second. Nothing here changes a token.

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

namespace gpt2kit {

// Seconds since some moment.
using Clock = std::function<double()>;

// Seconds of a pass over so many tokens, learnt from passes as they run.
class PassTimes {
 public:
  void add(int64_t tokens, double seconds);
  // Whether a pass of about so many tokens was measured lately.
  bool knows(int64_t tokens) const;
  // Measured lately, or estimated from what was; `otherwise` before the first measurement.
  double estimate(int64_t tokens, double otherwise = 0) const;

 private:
  static constexpr int kKept = 3;
  struct Measured {
    double seconds[kKept];
    int64_t count = 0;
    int64_t last = 0;  // the number of the pass
    double least() const;
  };
  bool is_fresh(const Measured& measured) const;

  std::map<int64_t, Measured> measured_;
  int64_t num_passes_ = 0;
};

// How often a guessed token is right that has so many right ones before it: tokens of the text that matched,
// or tokens of the same guess. Counts fade, so that it follows the text.
class Chances {
 public:
  // expected[i]: what to expect of a token with i right ones before it as long as nothing is known; the last
  // entry is for more too.
  explicit Chances(std::vector<double> expected);

  double of(int64_t num_before) const;
  void add(int64_t num_before, bool is_right);
  // Trusts what was counted a little less.
  void fade();

 private:
  struct Count {
    double right, all;
  };
  size_t index(int64_t num_before) const;
  std::vector<Count> counts_;
  std::vector<double> expected_;
};

// A row that could be guessed for: at most so many tokens, the first of which has evidence for it.
struct Candidate {
  int64_t evidence;
  int64_t most;
  int64_t planned = 0;
};

// Sets `planned` of each candidate so that num_rows rows, a token each, and the guesses give the most tokens
// in a second. draft_times: of the model that makes the guesses, null if they cost nothing; expected to take
// draft_share of the time of the model's passes as long as none was timed.
void plan(std::vector<Candidate>& candidates, int64_t num_rows, const Chances& chances,
          const PassTimes& times, const PassTimes* draft_times, double draft_share);

}  // namespace gpt2kit
