#pragma once

#include <cstdint>
#include <vector>

namespace gpt2kit {

// The logits that a choice depends on: those of exact_ids, and of the others all that are not smaller than
// the top_k-th largest. Those that are smaller by 2^-20 of it or less count too: a division may make them
// equal.
struct NeededLogits {
  int64_t top_k;
  std::vector<int32_t> exact_ids;  // ascending, each once
};

}  // namespace gpt2kit
