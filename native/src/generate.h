// Generation without Python between the tokens.

#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "forward.h"
#include "sampling.h"

namespace gpt2kit {

struct GenerateOptions {
  SamplingOptions sampling;
  int64_t num_return_sequences = 1;
  int64_t max_rows = 64;  // how many run at once; changes no result
};

struct Prompt {
  std::vector<int32_t> token_ids;  // at least one
  int64_t max_new_tokens;          // at least 1; the whole fits n_positions
  int64_t min_new_tokens;
  uint64_t seed;
};

// Told of every token (prompt index, row of that prompt, id); true ends the row.
using OnToken = std::function<bool(int64_t, int64_t, int32_t)>;

// New ids of all rows, prompt by prompt. on_token may be empty. between_steps runs after every forward pass
// and may throw to stop. Throws NoChoice, std::bad_alloc and whatever the callbacks throw.
std::vector<std::vector<int32_t>> generate(Forward& forward, const std::vector<Prompt>& prompts,
                                           const GenerateOptions& options, const OnToken& on_token,
                                           const std::function<void()>& between_steps);

}  // namespace gpt2kit
