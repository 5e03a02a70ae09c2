#include "drafters.h"

#include <algorithm>
#include <unordered_map>

namespace gpt2kit {

Lookup look_up(const std::vector<int32_t>& text, int64_t max_ngram, int64_t num_tokens) {
  const auto length = static_cast<int64_t>(text.size());
  // How many tokens before `end`, at most `most`, are as those before the end of the text.
  const auto count_same = [&](int64_t end, int64_t most) {
    int64_t same = 0;
    while (same < std::min(end, most) && text[end - 1 - same] == text[length - 1 - same]) ++same;
    return same;
  };
  int64_t best = 0, next = 0;
  for (int64_t end = length - 1; end > 0 && best < max_ngram; --end) {
    if (text[end - 1] != text.back()) continue;
    const int64_t same = count_same(end, max_ngram);
    if (same > best) {
      best = same;
      next = end;
    }
  }
  Lookup found{{}, 0};
  if (best == 0) return found;
  found.evidence = count_same(next, kMostEvidence);
  for (int64_t i = 0; i < num_tokens; ++i, ++next) {
    found.token_ids.push_back(next < length ? text[next] : found.token_ids[next - length]);
  }
  return found;
}

int64_t DraftModel::room(const Row& row) const {
  const auto length = static_cast<int64_t>(row.token_ids.size());
  return n_positions() - (length - window_start(length, n_positions())) + 1;
}

// Gives new rows a cache. Rows of one prompt begin alike: one of them runs, the others copy.
void DraftModel::start(const std::vector<Wanted>& wanted, const Chooser& chooser) {
  std::unordered_map<int64_t, Row*> started;  // by prompt
  std::vector<Work> work;
  for (const Wanted& each : wanted) {
    RowGuesses& guesses = each.row->guesses;
    if (guesses.window.cache || !started.emplace(each.row->prompt, each.row).second) continue;
    guesses.window.cache = std::make_shared<KvCache>(forward_.model().shape, forward_.model().kv_format);
    guesses.drafted = chooser.prompts()[each.row->prompt].token_ids;
    const Work prompt = guesses.window.pending(guesses.drafted, n_positions());
    work.push_back(prompt);
  }
  if (!work.empty()) forward_.run(work, Rows::kNone, nullptr, nullptr);
  for (const Wanted& each : wanted) {
    RowGuesses& guesses = each.row->guesses;
    if (guesses.window.cache) continue;
    const RowGuesses& twin = started.at(each.row->prompt)->guesses;
    guesses.window = twin.window.copy();
    guesses.drafted = twin.drafted;
  }
}

void DraftModel::propose(std::vector<Wanted> growing, Chooser& chooser) {
  start(growing, chooser);
  for (const Wanted& each : growing) {
    // Back to where the model's text and the row's part, but for a token to start from.
    RowGuesses& guesses = each.row->guesses;
    const std::vector<int32_t>& text = each.row->token_ids;
    const auto most = std::min(guesses.drafted.size(), text.size() - 1);
    const auto parting =
        std::mismatch(guesses.drafted.begin(), guesses.drafted.begin() + most, text.begin()).first;
    const int64_t same = parting - guesses.drafted.begin() - guesses.window.start;
    guesses.window.cache->truncate(std::clamp<int64_t>(same, 0, guesses.window.cache->length()));
    guesses.drafted = text;
  }
  const auto V = static_cast<size_t>(forward_.model().shape.vocab_size);
  while (!growing.empty()) {
    std::vector<Work> work;
    int64_t tokens = 0;
    for (const Wanted& each : growing) {
      work.push_back(each.row->guesses.window.pending(each.row->guesses.drafted, n_positions()));
      tokens += work.back().tokens;
    }
    logits_.resize(work.size() * V);
    const double begin = clock_();
    forward_.run(work, Rows::kLast, logits_.data(), nullptr);
    std::vector<Wanted> still_growing;
    for (size_t i = 0; i < growing.size(); ++i) {
      Wanted& each = growing[i];
      std::vector<int32_t>& text = each.row->guesses.drafted;
      int32_t id;
      try {
        id = chooser.choose(*each.row, text, logits_.data() + i * V);
      } catch (const NoChoice&) {  // the rules leave this model no token; the other one may have some
        continue;
      }
      text.push_back(id);
      each.guess->push_back(id);
      if (--each.num_tokens > 0 && !chooser.is_end(id) &&
          (min_probability_ == 0 || chooser.probability() >= min_probability_)) {
        still_growing.push_back(each);
      }
    }
    const double seconds = clock_() - begin;
    if (tokens <= 2 * static_cast<int64_t>(work.size())) {
      times_.add(tokens, seconds);
    } else {
      catching_up_s_ += seconds;
    }
    growing = std::move(still_growing);
  }
}

}  // namespace gpt2kit
