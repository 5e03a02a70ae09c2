#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

namespace gpt2kit {
namespace {

constexpr float kRemoved = -std::numeric_limits<float>::infinity();

// Like numpy's argmax: the first of the largest, and a NaN is larger than all.
int64_t argmax(const float* scores, int64_t n) {
  int64_t best = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (std::isnan(scores[i])) return i;
    if (scores[i] > scores[best]) best = i;
  }
  return best;
}

void require_finite(float highest) {
  if (!std::isfinite(highest)) throw NoChoice{highest};
}

void ban_repeated_ngrams(const std::vector<int32_t>& ids, int64_t size, float* scores) {
  const int64_t length = static_cast<int64_t>(ids.size());
  const auto prefix = ids.end() - (size - 1);
  for (int64_t start = 0; start + size <= length; ++start) {
    if (std::equal(prefix, ids.end(), ids.begin() + start)) scores[ids[start + size - 1]] = kRemoved;
  }
}

void ban_words(const std::vector<int32_t>& ids, const std::vector<std::vector<int32_t>>& words,
               float* scores) {
  for (const std::vector<int32_t>& word : words) {
    const size_t before = word.size() - 1;
    if (before <= ids.size() && std::equal(word.begin(), word.end() - 1, ids.end() - before)) {
      scores[word.back()] = kRemoved;
    }
  }
}

}  // namespace

double coin(uint64_t seed, uint32_t row, uint64_t position) {
  uint32_t counter[4] = {static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), row, 0};
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0], b = uint64_t{0xCD9E8D57} * counter[2];
    const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
                              static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    std::copy(next, next + 4, counter);
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return ((counter[0] >> 5) * 67108864.0 + (counter[1] >> 6)) * 0x1p-53;
}

std::optional<NeededLogits> needed_logits(const SamplingOptions& options,
                                          const std::vector<int32_t>& token_ids, int64_t num_new,
                                          int64_t min_new_tokens, int64_t vocab_size) {
  // Temperatures of these sizes keep the order of logits that differ by 2^-20.
  const bool is_few = !options.do_sample || (options.top_k > 0 && options.temperature >= 0x1p-10f &&
                                             options.temperature <= 0x1p10f);
  if (!is_few) return std::nullopt;
  NeededLogits needed{options.do_sample ? options.top_k : 1, {}};
  // Scores that change before the largest are found. Only ids of the text can complete its n-grams.
  std::vector<int32_t>& ids = needed.exact_ids;
  if (options.repetition_penalty != 1.0f || options.no_repeat_ngram_size > 0) ids = token_ids;
  for (const std::vector<int32_t>& word : options.bad_words_ids) ids.push_back(word.back());
  if (num_new < min_new_tokens) {
    const auto is_word = [&](int32_t id) { return id < vocab_size; };
    std::copy_if(options.eos_token_ids.begin(), options.eos_token_ids.end(), std::back_inserter(ids),
                 is_word);
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return needed;
}

int32_t Sampler::choose(const SamplingOptions& options, const std::vector<int32_t>& token_ids,
                        int64_t num_new, int64_t min_new_tokens, float* scores, int64_t vocab_size,
                        double uniform) {
  if (options.repetition_penalty != 1.0f) penalize_repetition(token_ids, options.repetition_penalty, scores);
  if (options.no_repeat_ngram_size > 0) ban_repeated_ngrams(token_ids, options.no_repeat_ngram_size, scores);
  ban_words(token_ids, options.bad_words_ids, scores);
  if (num_new < min_new_tokens) {
    for (const int32_t id : options.eos_token_ids) {
      if (id < vocab_size) scores[id] = kRemoved;
    }
  }

  if (!options.do_sample) {
    const int64_t best = argmax(scores, vocab_size);
    require_finite(scores[best]);
    return static_cast<int32_t>(best);
  }

  require_finite(scores[argmax(scores, vocab_size)]);
  if (options.temperature != 1.0f) {
    for (int64_t i = 0; i < vocab_size; ++i) scores[i] /= options.temperature;
  }
  collect(scores, vocab_size);
  if (options.top_k > 0) keep_top_k(options.top_k);
  if (options.top_p < 1.0) keep_top_p(options.top_p);
  if (options.min_p > 0.0) keep_min_p(options.min_p);
  if (options.typical_p < 1.0) keep_typical(options.typical_p);
  if (options.epsilon_cutoff > 0.0) cut(options.epsilon_cutoff, /*is_eta=*/false);
  if (options.eta_cutoff > 0.0) cut(options.eta_cutoff, /*is_eta=*/true);

  require_finite(scores_[argmax(scores_.data(), static_cast<int64_t>(scores_.size()))]);
  const double total = weigh(), threshold = uniform * total;
  double sum = 0;
  size_t chosen = 0;  // the last possible one, if rounding leaves none
  for (size_t i = 0; i < ids_.size(); ++i) {
    sum += weights_[i];
    if (weights_[i] > 0) chosen = i;
    if (sum > threshold) break;
  }
  probability_ = weights_[chosen] / total;
  return ids_[chosen];
}

double Sampler::probability(const SamplingOptions& options, const float* scores, int64_t vocab_size) const {
  if (options.do_sample) return probability_;
  const float highest = *std::max_element(scores, scores + vocab_size);
  float sum = 0;
  for (int64_t i = 0; i < vocab_size; ++i) sum += std::exp(scores[i] - highest);
  return 1.0 / static_cast<double>(sum);
}

void Sampler::penalize_repetition(const std::vector<int32_t>& token_ids, float penalty, float* scores) {
  const int32_t largest = *std::max_element(token_ids.begin(), token_ids.end());
  seen_.assign(static_cast<size_t>(largest) + 1, 0);
  for (const int32_t id : token_ids) {
    if (seen_[id]) continue;
    seen_[id] = 1;
    scores[id] = scores[id] < 0 ? scores[id] * penalty : scores[id] / penalty;
  }
}

void Sampler::collect(const float* scores, int64_t vocab_size) {
  ids_.clear();
  scores_.clear();
  for (int64_t i = 0; i < vocab_size; ++i) {
    if (scores[i] > kRemoved) {
      ids_.push_back(static_cast<int32_t>(i));
      scores_.push_back(scores[i]);
    }
  }
}

void Sampler::keep_marked() {
  size_t kept = 0;
  for (size_t i = 0; i < ids_.size(); ++i) {
    if (!keep_[i]) continue;
    ids_[kept] = ids_[i];
    scores_[kept] = scores_[i];
    ++kept;
  }
  ids_.resize(kept);
  scores_.resize(kept);
}

void Sampler::keep_top_k(int64_t top_k) {
  const size_t k = static_cast<size_t>(top_k);
  if (k >= scores_.size()) return;
  // A heap of the k largest so far, the smallest of them on top: nearly every score fails the one test.
  std::vector<float> largest(scores_.begin(), scores_.begin() + k);
  std::make_heap(largest.begin(), largest.end(), std::greater<>());
  for (size_t i = k; i < scores_.size(); ++i) {
    if (!(scores_[i] > largest.front())) continue;
    std::pop_heap(largest.begin(), largest.end(), std::greater<>());
    largest.back() = scores_[i];
    std::push_heap(largest.begin(), largest.end(), std::greater<>());
  }
  keep_.resize(scores_.size());
  for (size_t i = 0; i < scores_.size(); ++i) keep_[i] = !(scores_[i] < largest.front());
  keep_marked();
}

double Sampler::weigh() {
  const double highest = *std::max_element(scores_.begin(), scores_.end());
  weights_.resize(scores_.size());
  double total = 0;
  for (size_t i = 0; i < scores_.size(); ++i) {
    weights_[i] = std::exp(static_cast<double>(scores_[i]) - highest);
    total += weights_[i];
  }
  return total;
}

void Sampler::keep_top_p(double top_p) {
  const double wanted = top_p * weigh();
  order_.resize(ids_.size());
  for (size_t i = 0; i < order_.size(); ++i) order_[i] = static_cast<int32_t>(i);
  // A heap yields the most probable first and need not sort the long tail.
  const auto is_later = [this](int32_t a, int32_t b) {
    return weights_[a] < weights_[b] || (weights_[a] == weights_[b] && a > b);
  };
  std::make_heap(order_.begin(), order_.end(), is_later);
  keep_.assign(ids_.size(), 0);
  double before = 0;
  for (auto end = order_.end(); end != order_.begin(); --end) {
    const int32_t next = order_.front();
    if (end != order_.end() && !(before < wanted)) break;
    if (weights_[next] == 0) break;
    keep_[next] = 1;
    before += weights_[next];
    std::pop_heap(order_.begin(), end, is_later);
  }
  keep_marked();
}

void Sampler::keep_min_p(double min_p) {
  weigh();
  keep_.resize(ids_.size());
  for (size_t i = 0; i < ids_.size(); ++i) keep_[i] = !(weights_[i] < min_p);
  keep_marked();
}

double Sampler::distribution() {
  const double total = weigh(), log_total = std::log(total);
  const double highest = *std::max_element(scores_.begin(), scores_.end());
  probabilities_.resize(ids_.size());
  log_probabilities_.resize(ids_.size());
  double sum = 0;
  for (size_t i = 0; i < ids_.size(); ++i) {
    probabilities_[i] = weights_[i] / total;
    log_probabilities_[i] = static_cast<double>(scores_[i]) - highest - log_total;
    sum += probabilities_[i] * log_probabilities_[i];
  }
  return -sum;
}

void Sampler::keep_typical(double typical_p) {
  const double entropy = distribution();
  for (double& value : log_probabilities_) value = std::abs(-value - entropy);  // distances from here on
  order_.resize(ids_.size());
  for (size_t i = 0; i < order_.size(); ++i) order_[i] = static_cast<int32_t>(i);
  std::stable_sort(order_.begin(), order_.end(),
                   [this](int32_t a, int32_t b) { return log_probabilities_[a] < log_probabilities_[b]; });
  size_t last = 0;
  for (double sum = probabilities_[order_[0]]; sum < typical_p && last + 1 < order_.size();) {
    sum += probabilities_[order_[++last]];
  }
  const double farthest = log_probabilities_[order_[last]];
  keep_.resize(ids_.size());
  for (size_t i = 0; i < ids_.size(); ++i) keep_[i] = log_probabilities_[i] <= farthest;
  keep_marked();
}

void Sampler::cut(double epsilon, bool is_eta) {
  const double entropy = distribution();
  const double bound = is_eta ? std::min(epsilon, std::sqrt(epsilon) * std::exp(-entropy)) : epsilon;
  const float highest = *std::max_element(scores_.begin(), scores_.end());
  keep_.resize(ids_.size());
  for (size_t i = 0; i < ids_.size(); ++i) keep_[i] = probabilities_[i] >= bound || scores_[i] == highest;
  keep_marked();
}

}  // namespace gpt2kit
