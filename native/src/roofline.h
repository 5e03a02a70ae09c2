// What the machine can do at this minute, for `gpt2kit bench` to hold the engine's speed against: how fast
// threads read memory, and how fast they multiply and add.

#pragma once

#include <cstdint>
#include <vector>

namespace gpt2kit {

struct Bytes {
  const void* data;
  int64_t bytes;
};

// Bytes per second of each of `passes` readings of all ranges, in order, one after another; each thread reads
// one run of consecutive bytes. A reading that is not counted comes first, so that pages are mapped.
std::vector<double> read_bytes_per_s(const std::vector<Bytes>& ranges, int threads, int passes);

enum class Arithmetic {
  kFloat32,   // multiply-add in the widest registers there are
  kBFloat16,  // dot products of pairs into float32 (AVX-512 BF16)
  kInt8,      // dot products of fours into int32 (AVX-512 VNNI)
};

// Operations per second, a multiplication and an addition being two, of each of `passes` runs of a few
// milliseconds in registers. Empty where the processor lacks the instruction.
std::vector<double> operations_per_s(Arithmetic arithmetic, int threads, int passes);

}  // namespace gpt2kit
