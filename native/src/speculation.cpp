#include "speculation.h"

#include <algorithm>
#include <chrono>

namespace gpt2kit {
namespace {

// Guesses of a draft model cost time even to learn that they are wrong: this part of all time may be lost to
// them, and a pass to begin with.
constexpr double kMostLost = 0.015;
constexpr double kFirstPasses = 1;

// A text that repeats itself in one token may well do so by chance; in several it hardly does.
std::vector<double> expected_of_lookup() {
  std::vector<double> expected{0};
  for (int64_t same = 1; same <= kMostEvidence; ++same)
    expected.push_back(1 - 0.9 / static_cast<double>(same));
  return expected;
}

std::vector<double> expected_of_draft() { return std::vector<double>(kMostEvidence, 0.9); }

// The weights that a token meets.
double num_weights(const ModelShape& shape) {
  const auto C = static_cast<double>(shape.n_embd);
  return static_cast<double>(shape.n_layer) * C * (4 * C + 2 * static_cast<double>(shape.n_inner)) +
         C * static_cast<double>(shape.vocab_size);
}

}  // namespace

double steady_seconds() {
  const std::chrono::duration<double> since = std::chrono::steady_clock::now().time_since_epoch();
  return since.count();
}

Speculation::Speculation(const SpeculationOptions& options, const ModelShape& model)
    : options_(options),
      n_positions_(model.n_positions),
      chances_(options.draft ? expected_of_draft() : expected_of_lookup()) {
  if (options.draft) {
    draft_.emplace(*options.draft, options.min_probability, options_.clock);
    draft_share_ = num_weights(draft_->shape()) / num_weights(model);
  }
}

// The longest guess that the row may have: what it has use and room for.
int64_t Speculation::most(Row& row, const Chooser& chooser) const {
  const int64_t wanted = chooser.prompts()[row.prompt].max_new_tokens - chooser.num_new(row) - 1;
  const int64_t room = n_positions_ - (static_cast<int64_t>(row.token_ids.size()) - row.window.start);
  if (row.guesses.num_tokens == 0) row.guesses.num_tokens = options_.num_tokens;
  return std::max<int64_t>(0, std::min({wanted, room, row.guesses.num_tokens}));
}

Speculation::Guesses Speculation::propose(const std::vector<Row*>& rows, Chooser& chooser) {
  end_round();
  num_rows_ = static_cast<int64_t>(rows.size());
  Guesses guesses = draft_ ? draft_all(rows, chooser) : look_up_all(rows, chooser);
  for (const std::vector<int32_t>& guess : guesses) num_guessed_ += static_cast<int64_t>(guess.size());
  return guesses;
}

// Looking costs nothing, so all rows do, and learn how often it would have been right.
Speculation::Guesses Speculation::look_up_all(const std::vector<Row*>& rows, const Chooser& chooser) {
  std::vector<Candidate> candidates;
  for (Row* row : rows) {
    Lookup found = look_up(row->token_ids, options_.max_ngram, most(*row, chooser));
    const auto end = std::find_if(found.token_ids.begin(), found.token_ids.end(),
                                  [&](int32_t id) { return chooser.is_end(id); });
    if (end != found.token_ids.end()) found.token_ids.erase(end + 1, found.token_ids.end());
    row->guesses.evidence = found.evidence;
    row->guesses.predicted = std::move(found.token_ids);
    candidates.push_back({found.evidence, static_cast<int64_t>(row->guesses.predicted.size())});
  }
  Guesses guesses(rows.size());
  if (!times_.knows(num_rows_)) return guesses;
  plan(candidates, num_rows_, chances_, times_, nullptr, 0);
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::vector<int32_t>& predicted = rows[i]->guesses.predicted;
    guesses[i].assign(predicted.begin(), predicted.begin() + candidates[i].planned);
  }
  return guesses;
}

Speculation::Guesses Speculation::draft_all(const std::vector<Row*>& rows, Chooser& chooser) {
  Guesses guesses(rows.size());
  if (!times_.knows(num_rows_)) return guesses;
  const double allowed = kMostLost * elapsed_s_ + kFirstPasses * times_.estimate(num_rows_);
  if (lost_s_ > allowed) {
    chances_.fade();
    return guesses;
  }
  std::vector<Candidate> candidates;
  for (Row* row : rows) candidates.push_back({0, std::min(most(*row, chooser), draft_->room(*row))});
  plan(candidates, num_rows_, chances_, times_, &draft_->times(), draft_share_);
  std::vector<DraftModel::Wanted> wanted;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (candidates[i].planned > 0) wanted.push_back({rows[i], candidates[i].planned, &guesses[i]});
  }
  if (wanted.empty()) {
    chances_.fade();
    return guesses;
  }
  draft_->propose(std::move(wanted), chooser);
  draft_s_ = draft_->catching_up_s();
  for (int64_t pass = 0;; ++pass) {
    const auto num_drafting = std::count_if(guesses.begin(), guesses.end(), [&](const auto& guess) {
      return static_cast<int64_t>(guess.size()) > pass;
    });
    if (num_drafting == 0) break;
    draft_s_ += draft_->times().estimate(num_drafting);
  }
  return guesses;
}

void Speculation::settled(Row& row, const std::vector<int32_t>& guess, int64_t num_new) {
  num_chosen_ += num_new;
  RowGuesses& guesses = row.guesses;
  const std::vector<int32_t>& expected = draft_ ? guess : guesses.predicted;
  const auto chosen = row.token_ids.end() - num_new;
  for (int64_t i = 0; i < std::min(num_new, static_cast<int64_t>(expected.size())); ++i) {
    const bool is_right = expected[i] == chosen[i];
    chances_.add(draft_ ? i : guesses.evidence + i, is_right);
    if (!is_right) break;
  }
  if (guess.empty()) return;
  const auto num_guessed = static_cast<int64_t>(guess.size());
  const int64_t right =
      std::mismatch(guess.begin(), guess.begin() + std::min(num_guessed, num_new), chosen).first -
      guess.begin();
  guesses.guessed += num_guessed;
  guesses.right += right;
  if (!options_.is_constant) {
    guesses.num_tokens =
        right == num_guessed ? guesses.num_tokens + 2 : std::max<int64_t>(1, guesses.num_tokens - 1);
  }
}

// Counts the time by what passes usually take, so that a machine that is busy for a moment switches nothing
// off.
void Speculation::end_round() {
  if (num_rows_ > 0) {
    const double plain = times_.estimate(num_rows_);
    const double spent = times_.estimate(num_rows_ + num_guessed_) + draft_s_;
    elapsed_s_ += spent;
    if (num_guessed_ > 0 || draft_s_ > 0) {
      const double saved = plain * static_cast<double>(num_chosen_) / static_cast<double>(num_rows_);
      lost_s_ = std::max(0.0, lost_s_ + spent - saved);
    }
  }
  num_rows_ = num_guessed_ = num_chosen_ = 0;
  draft_s_ = 0;
}

}  // namespace gpt2kit
