#include "generate.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace gpt2kit {
namespace {

struct Row {
  int64_t prompt, index;  // index among the prompt's num_return_sequences
  std::shared_ptr<KvCache> cache;
  std::vector<int32_t> token_ids;  // prompt and new ids
  int64_t start = 0;               // index of the first id that the cache holds
};

// The ids that the cache has not seen yet. A text that outgrows n_positions is run again from a later start.
Work pending(Row& row, int64_t n_positions) {
  const auto length = static_cast<int64_t>(row.token_ids.size());
  const int64_t start = window_start(length, n_positions);
  if (start > row.start) {
    row.cache->truncate(0);
    row.start = start;
  }
  const int64_t seen = row.start + row.cache->length();
  const Phase phase = row.cache->length() > 0 ? Phase::kDecode : Phase::kPrefill;
  return {row.cache.get(), row.token_ids.data() + seen, length - seen, phase};
}

}  // namespace

int64_t window_start(int64_t length, int64_t n_positions) {
  const int64_t stride = std::max<int64_t>(1, n_positions / 2);
  return std::max<int64_t>(0, (length - n_positions + stride - 1) / stride * stride);
}

std::vector<std::vector<int32_t>> generate(Forward& forward, const std::vector<Prompt>& prompts,
                                           const GenerateOptions& options, const OnToken& on_token,
                                           const std::function<void()>& between_steps) {
  const int64_t V = forward.model().shape.vocab_size, n_positions = forward.model().shape.n_positions;
  const int64_t per_prompt = options.num_return_sequences;
  const int64_t num_prompts = static_cast<int64_t>(prompts.size());
  std::vector<std::vector<int32_t>> results(static_cast<size_t>(num_prompts * per_prompt));
  std::vector<Row> active;
  std::vector<float> logits, scores(static_cast<size_t>(V));
  Sampler sampler;

  const auto choose = [&](Row& row, const float* row_logits) {
    const Prompt& prompt = prompts[row.prompt];
    const auto length = static_cast<int64_t>(row.token_ids.size());
    const int64_t num_new = length - static_cast<int64_t>(prompt.token_ids.size());
    std::copy_n(row_logits, V, scores.data());
    const double uniform =
        options.sampling.do_sample ? coin(prompt.seed, static_cast<uint32_t>(row.index), length) : 0.0;
    const int32_t id = sampler.choose(options.sampling, row.token_ids, num_new, prompt.min_new_tokens,
                                      scores.data(), V, uniform);
    row.token_ids.push_back(id);
    const std::vector<int32_t>& eos = options.sampling.eos_token_ids;
    bool is_done = std::find(eos.begin(), eos.end(), id) != eos.end() || num_new + 1 >= prompt.max_new_tokens;
    if (on_token && on_token(row.prompt, row.index, id)) is_done = true;
    return is_done;
  };

  for (int64_t next_prompt = 0; next_prompt < num_prompts || !active.empty();) {
    // One token for each row that runs, the whole prompt for each that joins.
    const size_t num_running = active.size();
    std::vector<Work> work;
    for (Row& row : active) work.push_back(pending(row, n_positions));
    const int64_t room = options.max_rows - static_cast<int64_t>(num_running);
    int64_t joining = num_running ? room / per_prompt : std::max<int64_t>(1, room / per_prompt);
    for (; joining > 0 && next_prompt < num_prompts; --joining, ++next_prompt) {
      active.push_back({next_prompt, 0,
                        std::make_shared<KvCache>(forward.model().shape, forward.model().kv_format),
                        prompts[next_prompt].token_ids});
      work.push_back(pending(active.back(), n_positions));
    }
    logits.resize(work.size() * static_cast<size_t>(V));
    forward.run(work, Rows::kLast, logits.data(), nullptr);
    between_steps();

    std::vector<Row> still_active;
    const auto settle = [&](Row row, const float* row_logits) {
      if (choose(row, row_logits)) {
        const size_t prompt_length = prompts[row.prompt].token_ids.size();
        results[row.prompt * per_prompt + row.index].assign(row.token_ids.begin() + prompt_length,
                                                            row.token_ids.end());
      } else {
        still_active.push_back(std::move(row));
      }
    };
    for (size_t i = 0; i < active.size(); ++i) {
      const float* row_logits = logits.data() + i * static_cast<size_t>(V);
      if (i >= num_running) {
        for (int64_t index = 1; index < per_prompt; ++index) {
          settle({active[i].prompt, index, std::make_shared<KvCache>(*active[i].cache), active[i].token_ids,
                  active[i].start},
                 row_logits);
        }
      }
      settle(std::move(active[i]), row_logits);
    }
    active = std::move(still_active);
  }
  return results;
}

}  // namespace gpt2kit
