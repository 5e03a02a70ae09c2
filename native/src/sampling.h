// From logits to one token: what bans.py, penalties.py, warpers.py, sampling.py and random.py of
// gpt2kit/generation define, with the same order, the same types and the same sums, so that both choose the
// same ids.

#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "needed_logits.h"

namespace gpt2kit {

// Switched off: temperature 1, top_k 0, top_p 1, min_p 0, typical_p 1, cutoffs 0, repetition_penalty 1,
// no_repeat_ngram_size 0.
struct SamplingOptions {
  bool do_sample = false;
  float temperature = 1;
  int64_t top_k = 0;
  double top_p = 1;
  double min_p = 0;
  double typical_p = 1;
  double epsilon_cutoff = 0;
  double eta_cutoff = 0;
  float repetition_penalty = 1;
  int64_t no_repeat_ngram_size = 0;
  std::vector<std::vector<int32_t>> bad_words_ids;
  std::vector<int32_t> eos_token_ids;
};

// Thrown when the largest score is not finite: nothing can be chosen.
struct NoChoice {
  float highest;
};

// Uniform in [0, 1): Philox4x32-10 with key `seed` and counter (position, row).
double coin(uint64_t seed, uint32_t row, uint64_t position);

// The logits that Sampler::choose will look at, if they are few: whatever the others are, so long as they are
// not larger, it chooses the same. token_ids may end with a guess that num_new does not count: then for the
// choices of the tokens of the guess too, and of the one behind it.
std::optional<NeededLogits> needed_logits(const SamplingOptions& options,
                                          const std::vector<int32_t>& token_ids, int64_t num_new,
                                          int64_t min_new_tokens, int64_t vocab_size);

// Keeps its buffers from token to token. One sampler for one thread.
class Sampler {
 public:
  // token_ids: the whole sequence so far; num_new of them were generated. scores (V) is changed. uniform is
  // the token's coin; greedy ignores it.
  int32_t choose(const SamplingOptions& options, const std::vector<int32_t>& token_ids, int64_t num_new,
                 int64_t min_new_tokens, float* scores, int64_t vocab_size, double uniform);

  // How probable the last token was that choose() returned, among those it chose from; to four digits or so.
  // scores as choose() left them.
  double probability(const SamplingOptions& options, const float* scores, int64_t vocab_size) const;

 private:
  void penalize_repetition(const std::vector<int32_t>& token_ids, float penalty, float* scores);
  void collect(const float* scores, int64_t vocab_size);
  void keep_top_k(int64_t top_k);
  void keep_top_p(double top_p);
  void keep_min_p(double min_p);
  void keep_typical(double typical_p);
  void cut(double epsilon, bool is_eta);
  void keep_marked();

  // weight[i] = exp(score[i] - max); returns their sum over ascending ids.
  double weigh();
  // p and log p of the candidates; returns the entropy.
  double distribution();

  // Tokens that are still possible, ids ascending.
  std::vector<int32_t> ids_;
  std::vector<float> scores_;
  std::vector<double> weights_, probabilities_, log_probabilities_;
  std::vector<int32_t> order_;
  std::vector<char> keep_;
  std::vector<char> seen_;
  double probability_ = 1;  // of the last token that was sampled
};

}  // namespace gpt2kit
