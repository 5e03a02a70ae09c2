#pragma once

// Byte-pair merging of one piece: repeatedly merge the adjacent pair of lowest rank, leftmost first.

#include <cstdint>
#include <vector>

#include "vocabulary.h"

namespace gpt2kit {

// A symbol of a long piece, in a linked list.
struct Symbol {
  int32_t id;
  int32_t previous, next;  // positions; -1 and the piece's size at the ends
  uint32_t rank;           // of the pair that it makes with the next one; UINT32_MAX if that does not merge
};

// Working memory of merge_piece, reused from call to call.
struct MergeBuffers {
  std::vector<Symbol> symbols;
  std::vector<uint64_t> heap;
};

// Replaces ids[0, size) (the token of each byte, kNoToken for a byte without one) by the tokens of the piece
// and returns how many there are. O(size log size) at worst.
size_t merge_piece(const Vocabulary& vocabulary, int32_t* ids, size_t size, MergeBuffers& buffers);

}  // namespace gpt2kit
