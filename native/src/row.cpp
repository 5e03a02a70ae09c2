#include "row.h"

#include <algorithm>

namespace gpt2kit {

int64_t window_start(int64_t length, int64_t n_positions) {
  const int64_t stride = std::max<int64_t>(1, n_positions / 2);
  return std::max<int64_t>(0, (length - n_positions + stride - 1) / stride * stride);
}

Work Window::pending(const std::vector<int32_t>& text, int64_t n_positions) {
  const auto length = static_cast<int64_t>(text.size());
  const int64_t wanted = window_start(length, n_positions);
  if (wanted > start) {
    cache->truncate(0);
    start = wanted;
  }
  const int64_t seen = start + cache->length();
  const Phase phase = cache->length() > 0 ? Phase::kDecode : Phase::kPrefill;
  return {cache.get(), text.data() + seen, length - seen, phase};
}

bool Chooser::is_end(int32_t id) const {
  const std::vector<int32_t>& eos = options_.eos_token_ids;
  return std::find(eos.begin(), eos.end(), id) != eos.end();
}

std::optional<NeededLogits> Chooser::needed(const Row& row, const std::vector<int32_t>& guess) const {
  std::vector<int32_t> text = row.token_ids;
  text.insert(text.end(), guess.begin(), guess.end());
  return needed_logits(options_, text, num_new(row), prompts_[row.prompt].min_new_tokens, vocab_size());
}

int32_t Chooser::choose(const Row& row, const std::vector<int32_t>& text, const float* logits) {
  const Prompt& prompt = prompts_[row.prompt];
  const auto length = static_cast<int64_t>(text.size());
  const int64_t num_new = length - static_cast<int64_t>(prompt.token_ids.size());
  std::copy_n(logits, vocab_size(), scores_.data());
  const double uniform =
      options_.do_sample ? coin(prompt.seed, static_cast<uint32_t>(row.index), length) : 0.0;
  return sampler_.choose(options_, text, num_new, prompt.min_new_tokens, scores_.data(), vocab_size(),
                         uniform);
}

}  // namespace gpt2kit
