#include "generate.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

namespace gpt2kit {
namespace {

class Generation {
 public:
  Generation(Forward& forward, const std::vector<Prompt>& prompts, const GenerateOptions& options,
             const OnToken& on_token, const std::function<void()>& between_steps)
      : forward_(forward),
        shape_(forward.model().shape),
        prompts_(prompts),
        options_(options),
        on_token_(on_token),
        between_steps_(between_steps),
        chooser_(prompts, options.sampling, shape_.vocab_size),
        results_(prompts.size() * static_cast<size_t>(options.num_return_sequences)) {
    if (options.speculation.num_tokens > 0) speculation_.emplace(options.speculation, shape_);
  }

  std::vector<NewTokens> run() {
    while (next_prompt_ < static_cast<int64_t>(prompts_.size()) || !active_.empty()) step();
    return std::move(results_);
  }

 private:
  using Guess = std::vector<int32_t>;

  // A row's part of a step.
  struct Turn {
    Work work;
    std::optional<NeededLogits> needed = std::nullopt;
    bool could_guess = false;
    Guess guess;
    std::vector<int32_t> checked;   // the pending token and the guess, if there is one
    const float* logits = nullptr;  // (guess.size() + 1, V)

    int64_t num_choices() const { return static_cast<int64_t>(guess.size()) + 1; }
  };

  // At least one token for each row that runs, the whole prompt for each that joins.
  void step() {
    const size_t num_running = active_.size();
    join();
    std::vector<Turn> turns(active_.size());
    for (size_t i = 0; i < active_.size(); ++i) {
      turns[i].work = active_[i].window.pending(active_[i].token_ids, shape_.n_positions);
    }
    if (speculation_) guess(turns, num_running);
    for (size_t i = 0; i < active_.size(); ++i) {
      turns[i].needed = chooser_.needed(active_[i], turns[i].guess);
      if (turns[i].needed) turns[i].work.needed = &*turns[i].needed;
    }
    check(turns);
    std::vector<Row> rows = std::move(active_);
    active_.clear();
    for (size_t i = 0; i < rows.size(); ++i) {
      if (i >= num_running) {
        for (int64_t index = 1; index < options_.num_return_sequences; ++index) {
          settle({rows[i].prompt, index, rows[i].window.copy(), rows[i].token_ids, {}}, turns[i]);
        }
      }
      settle(std::move(rows[i]), turns[i]);
    }
  }

  void join() {
    const int64_t num_running = static_cast<int64_t>(active_.size());
    const int64_t room = (options_.max_rows - num_running) / options_.num_return_sequences;
    int64_t joining = num_running ? room : std::max<int64_t>(1, room);
    for (; joining > 0 && next_prompt_ < static_cast<int64_t>(prompts_.size()); --joining, ++next_prompt_) {
      Window window{std::make_shared<KvCache>(shape_, forward_.model().kv_format), 0};
      active_.push_back({next_prompt_, 0, std::move(window), prompts_[next_prompt_].token_ids, {}});
    }
  }

  // Only for rows with a single token to run: where a window has moved, its text is run as it would be
  // anyhow.
  void guess(std::vector<Turn>& turns, size_t num_running) {
    std::vector<Row*> rows;
    std::vector<Turn*> of_rows;
    for (size_t i = 0; i < num_running; ++i) {
      if (turns[i].work.tokens != 1) continue;
      rows.push_back(&active_[i]);
      of_rows.push_back(&turns[i]);
    }
    if (rows.empty()) return;
    std::vector<Guess> guesses = speculation_->propose(rows, chooser_);
    for (size_t i = 0; i < rows.size(); ++i) {
      Turn& turn = *of_rows[i];
      turn.could_guess = true;
      turn.guess = std::move(guesses[i]);
      if (turn.guess.empty()) continue;
      turn.checked.push_back(turn.work.token_ids[0]);
      turn.checked.insert(turn.checked.end(), turn.guess.begin(), turn.guess.end());
      turn.work.token_ids = turn.checked.data();
      turn.work.tokens = static_cast<int64_t>(turn.checked.size());
    }
  }

  // Runs all turns and sets their logits. Rows that are checked need logits for every token, others for the
  // last one, so guesses cut a step in two where prompts or moved windows take part.
  void check(std::vector<Turn>& turns) {
    std::vector<Turn*> last, all;
    size_t num_choices = 0;
    bool has_guess = false;
    for (Turn& turn : turns) {
      num_choices += static_cast<size_t>(turn.num_choices());
      has_guess |= !turn.guess.empty();
      (turn.work.tokens == turn.num_choices() ? all : last).push_back(&turn);
    }
    logits_.resize(num_choices * static_cast<size_t>(shape_.vocab_size));
    float* logits = logits_.data();
    if (has_guess) {
      logits = run_pass(all, Rows::kAll, logits);
      if (!last.empty()) run_pass(last, Rows::kLast, logits);
    } else {
      std::vector<Turn*> pointers;
      for (Turn& turn : turns) pointers.push_back(&turn);
      run_pass(pointers, Rows::kLast, logits);
    }
    between_steps_();
  }

  // Returns the end of the logits that it writes.
  float* run_pass(const std::vector<Turn*>& turns, Rows rows, float* logits) {
    std::vector<Work> work;
    int64_t num_tokens = 0;
    float* end = logits;
    for (Turn* turn : turns) {
      work.push_back(turn->work);
      num_tokens += turn->work.tokens;
      turn->logits = end;
      end += turn->num_choices() * shape_.vocab_size;
    }
    const double begin = speculation_ ? options_.speculation.clock() : 0;
    forward_.run(work, rows, logits, nullptr);
    const auto has_one_choice_a_token = [](const Turn* turn) {
      return turn->work.tokens == turn->num_choices();
    };
    if (speculation_ && std::all_of(turns.begin(), turns.end(), has_one_choice_a_token)) {
      speculation_->timed(num_tokens, options_.speculation.clock() - begin);
    }
    return end;
  }

  // Chooses while the guess is right, and the token after it; keeps the row or its result.
  void settle(Row row, const Turn& turn) {
    const size_t num_before = row.token_ids.size();
    bool is_done = false;
    for (size_t i = 0; i <= turn.guess.size() && !is_done; ++i) {
      const int32_t id =
          chooser_.choose(row, row.token_ids, turn.logits + i * static_cast<size_t>(shape_.vocab_size));
      is_done = append(row, id);
      if (i < turn.guess.size() && id != turn.guess[i]) break;
    }
    if (turn.could_guess) {
      speculation_->settled(row, turn.guess, static_cast<int64_t>(row.token_ids.size() - num_before));
    }
    if (is_done) {
      const auto prompt_length = static_cast<int64_t>(prompts_[row.prompt].token_ids.size());
      results_[row.prompt * options_.num_return_sequences + row.index] = {
          {row.token_ids.begin() + prompt_length, row.token_ids.end()},
          row.guesses.guessed,
          row.guesses.right};
    } else {
      row.window.cache->truncate(static_cast<int64_t>(row.token_ids.size()) - 1 - row.window.start);
      active_.push_back(std::move(row));
    }
  }

  // Returns true when the row ends with this token.
  bool append(Row& row, int32_t id) {
    row.token_ids.push_back(id);
    bool is_done = chooser_.is_end(id) || chooser_.num_new(row) >= prompts_[row.prompt].max_new_tokens;
    if (on_token_ && on_token_(row.prompt, row.index, id)) is_done = true;
    return is_done;
  }

  Forward& forward_;
  const ModelShape& shape_;
  const std::vector<Prompt>& prompts_;
  const GenerateOptions& options_;
  const OnToken& on_token_;
  const std::function<void()>& between_steps_;
  Chooser chooser_;
  std::optional<Speculation> speculation_;
  int64_t next_prompt_ = 0;
  std::vector<Row> active_;
  std::vector<float> logits_;
  std::vector<NewTokens> results_;
};

}  // namespace

std::vector<NewTokens> generate(Forward& forward, const std::vector<Prompt>& prompts,
                                const GenerateOptions& options, const OnToken& on_token,
                                const std::function<void()>& between_steps) {
  return Generation(forward, prompts, options, on_token, between_steps).run();
}

}  // namespace gpt2kit
