// The keys and values of one sequence, for every layer and head.

#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels_attention.h"
#include "model.h"

namespace gpt2kit {

// For each layer and head, blocks of keys and blocks of values, as kernels_attention.h lays them out. Room
// for n_positions is reserved as address space; memory is taken page by page as positions are written, so a
// short sequence costs little and nothing is ever moved.
class KvCache {
 public:
  KvCache(const ModelShape& shape, KvFormat format);  // throws std::bad_alloc
  KvCache(const KvCache& other);                      // copies only what is written
  KvCache& operator=(const KvCache&) = delete;
  ~KvCache();

  KvFormat format() const { return format_; }
  int64_t length() const { return length_; }
  // What the blocks of length() positions take.
  int64_t bytes() const;
  // Forgets positions from `length` on. 0 <= length <= length().
  void truncate(int64_t length) { length_ = length; }
  // Counts positions that have been written behind the end.
  void advance(int64_t tokens) { length_ += tokens; }

  void* keys(int64_t layer, int64_t head) { return data_ + head_index(layer, head) * head_bytes_; }
  void* values(int64_t layer, int64_t head) {
    return data_ + head_index(layer, head) * head_bytes_ + values_offset_;
  }

  // All positions in rows: both (n_layer, n_head, length(), D). The kernels are those of the format.
  void copy_out(const AttentionKernels& kernels, float* keys, float* values) const;
  // The same back, rounded; the cache must be empty, and `length` at most n_positions. What copy_out() gave
  // becomes what it came from.
  void copy_in(const AttentionKernels& kernels, const float* keys, const float* values, int64_t length);

 private:
  int64_t head_index(int64_t layer, int64_t head) const { return layer * heads_ + head; }

  KvFormat format_;
  int64_t layers_, heads_, head_size_, padded_head_size_;
  int64_t values_offset_, head_bytes_;  // of a head's values, and of all of a head, in bytes
  int64_t length_ = 0;
  size_t bytes_;
  char* data_;
};

}  // namespace gpt2kit
