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
  int64_t max_new_tokens;          // at least 1
  int64_t min_new_tokens;
  uint64_t seed;
};

// Where the context of the next token begins in a text of this length: 0 as long as n_positions hold it, then
// later by half of them each time they are full. generation/window.py says why.
int64_t window_start(int64_t length, int64_t n_positions);

// Told of every token (prompt index, row of that prompt, id); true ends the row.
using OnToken = std::function<bool(int64_t, int64_t, int32_t)>;

// New ids of all rows, prompt by prompt. on_token may be empty. between_steps runs after every forward pass
// and may throw to stop. Throws NoChoice, std::bad_alloc and whatever the callbacks throw.
std::vector<std::vector<int32_t>> generate(Forward& forward, const std::vector<Prompt>& prompts,
                                           const GenerateOptions& options, const OnToken& on_token,
                                           const std::function<void()>& between_steps);

}  // namespace gpt2kit
