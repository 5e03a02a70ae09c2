// The keys and values of one sequence, for every layer and head.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels.h"
#include "model.h"

namespace gpt2kit {

// Per layer and head: keys in blocks of 16 positions, [S/16][D][16], so that one register holds the
// scores of 16 positions; values as rows [S][Dp]. Room for n_positions is reserved as address space;
// memory is taken page by page as positions are written (a block of either is one 4 KiB page when D is
// 64), so a short sequence costs little and nothing is ever moved.
class KvCache {
 public:
  explicit KvCache(const ModelShape& shape);  // throws std::bad_alloc
  KvCache(const KvCache& other);              // copies only what is written
  KvCache& operator=(const KvCache&) = delete;
  ~KvCache();

  int64_t length() const { return length_; }
  // Forgets positions from `length` on. 0 <= length <= length().
  void truncate(int64_t length) { length_ = length; }
  // Counts positions that have been written behind the end.
  void advance(int64_t tokens) { length_ += tokens; }

  float* keys(int64_t layer, int64_t head) {
    return data_ + head_index(layer, head) * (key_floats_ + value_floats_);
  }
  float* values(int64_t layer, int64_t head) { return keys(layer, head) + key_floats_; }
  // Writes one position's key and value (D each) of one head.
  void write(int64_t layer, int64_t head, int64_t position, const float* key, const float* value) {
    float* k = keys(layer, head) + position / kKeyBlock * kKeyBlock * head_size_ + position % kKeyBlock;
    for (int64_t d = 0; d < head_size_; ++d) k[d * kKeyBlock] = key[d];
    std::copy_n(value, head_size_, values(layer, head) + position * padded_head_size_);
  }

  // All positions in rows: both (n_layer, n_head, length(), D).
  void copy_out(float* keys, float* values) const;
  // The same back; the cache must be empty, and `length` at most n_positions.
  void copy_in(const float* keys, const float* values, int64_t length);

 private:
  int64_t head_index(int64_t layer, int64_t head) const { return layer * heads_ + head; }

  int64_t layers_, heads_, head_size_, padded_head_size_, capacity_, key_floats_, value_floats_;
  int64_t length_ = 0;
  size_t bytes_;
  float* data_;
};

}  // namespace gpt2kit
