#include "merge.h"

#include <algorithm>
#include <functional>

namespace gpt2kit {
namespace {

// Below this a scan for the minimum beats a heap; pieces of English are 5 bytes long on average.
constexpr size_t kSmallPiece = 40;

Merge pair_at(const Vocabulary& vocabulary, int32_t left, int32_t right) {
  if (left == kNoToken || right == kNoToken) return {};
  return vocabulary.merge(left, right);
}

size_t merge_small(const Vocabulary& vocabulary, int32_t* ids, size_t size) {
  uint32_t ranks[kSmallPiece];  // of the pair (i, i + 1)
  int32_t merged[kSmallPiece];
  for (size_t i = 0; i + 1 < size; ++i) {
    const Merge merge = pair_at(vocabulary, ids[i], ids[i + 1]);
    ranks[i] = merge.rank;
    merged[i] = merge.id;
  }
  const auto set_pair = [&](size_t i) {
    const Merge merge = pair_at(vocabulary, ids[i], ids[i + 1]);
    ranks[i] = merge.rank;
    merged[i] = merge.id;
  };
  while (size > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < size; ++i) {
      if (ranks[i] < ranks[best]) best = i;
    }
    if (ranks[best] == UINT32_MAX) break;
    ids[best] = merged[best];
    --size;
    for (size_t i = best + 1; i < size; ++i) ids[i] = ids[i + 1];
    for (size_t i = best + 1; i + 1 < size; ++i) {
      ranks[i] = ranks[i + 1];
      merged[i] = merged[i + 1];
    }
    if (best + 1 < size) set_pair(best);
    if (best > 0) set_pair(best - 1);
  }
  return size;
}

// The heap holds (rank, position) of every pair that can merge. An entry whose pair has changed since is
// recognised by its rank: a rank names one pair of tokens.
size_t merge_large(const Vocabulary& vocabulary, int32_t* ids, size_t size, MergeBuffers& buffers) {
  const auto count = static_cast<int32_t>(size);
  buffers.symbols.resize(size);
  Symbol* const symbols = buffers.symbols.data();
  auto& heap = buffers.heap;
  heap.clear();
  const auto entry = [&](int32_t i) {
    return static_cast<uint64_t>(symbols[i].rank) << 32 | static_cast<uint32_t>(i);
  };
  for (int32_t i = 0; i < count; ++i) {
    const bool has_next = i + 1 < count;
    symbols[i] = {ids[i], i - 1, i + 1, has_next ? pair_at(vocabulary, ids[i], ids[i + 1]).rank : UINT32_MAX};
    if (symbols[i].rank != UINT32_MAX) heap.push_back(entry(i));
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto set_rank = [&](int32_t i) {
    Symbol& left = symbols[i];
    left.rank = left.next < count ? pair_at(vocabulary, left.id, symbols[left.next].id).rank : UINT32_MAX;
    if (left.rank == UINT32_MAX) return;
    heap.push_back(entry(i));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    const uint64_t lowest = heap.front();
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    heap.pop_back();
    const auto i = static_cast<int32_t>(lowest & UINT32_MAX);
    const auto rank = static_cast<uint32_t>(lowest >> 32);
    Symbol& left = symbols[i];
    if (left.rank != rank) continue;
    Symbol& right = symbols[left.next];
    left.id = vocabulary.merged(rank);
    left.next = right.next;
    right.rank = UINT32_MAX;
    if (left.next < count) symbols[left.next].previous = i;
    set_rank(i);
    if (left.previous >= 0) set_rank(left.previous);
  }
  size_t kept = 0;
  for (int32_t i = 0; i < count; i = symbols[i].next) ids[kept++] = symbols[i].id;
  return kept;
}

}  // namespace

size_t merge_piece(const Vocabulary& vocabulary, int32_t* ids, size_t size, MergeBuffers& buffers) {
  return size <= kSmallPiece ? merge_small(vocabulary, ids, size)
                             : merge_large(vocabulary, ids, size, buffers);
}

}  // namespace gpt2kit
