// Generation without Python between the tokens.

#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "forward.h"
#include "row.h"
#include "sampling.h"
#include "speculation.h"

namespace gpt2kit {

struct GenerateOptions {
  SamplingOptions sampling;
  SpeculationOptions speculation;
  int64_t num_return_sequences = 1;
  int64_t max_rows = 64;  // how many run at once; changes no result
};

struct NewTokens {
  std::vector<int32_t> token_ids;
  int64_t num_guessed = 0, num_right = 0;  // tokens that were guessed, and those of them that were right
};

// Told of every token (prompt index, row of that prompt, id); true ends the row.
using OnToken = std::function<bool(int64_t, int64_t, int32_t)>;

// What all rows have grown by, prompt by prompt. on_token may be empty. between_steps runs after every
// forward pass and may throw to stop. Throws NoChoice, std::bad_alloc and whatever the callbacks throw.
std::vector<NewTokens> generate(Forward& forward, const std::vector<Prompt>& prompts,
                                const GenerateOptions& options, const OnToken& on_token,
                                const std::function<void()>& between_steps);

}  // namespace gpt2kit
