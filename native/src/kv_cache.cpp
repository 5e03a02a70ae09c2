#include "kv_cache.h"

#include <sys/mman.h>

#include <new>

namespace gpt2kit {
namespace {

float* reserve(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  return static_cast<float*>(p);
}

}  // namespace

KvCache::KvCache(const ModelShape& shape)
    : layers_(shape.n_layer),
      heads_(shape.n_head),
      head_size_(shape.head_size()),
      padded_head_size_(shape.padded_head_size()),
      capacity_(shape.n_positions) {
  const int64_t positions = (capacity_ + kKeyBlock - 1) / kKeyBlock * kKeyBlock;
  key_floats_ = positions * head_size_;
  value_floats_ = positions * padded_head_size_;
  bytes_ = static_cast<size_t>(layers_ * heads_ * (key_floats_ + value_floats_)) * sizeof(float);
  data_ = reserve(bytes_);
}

KvCache::KvCache(const KvCache& other)
    : layers_(other.layers_),
      heads_(other.heads_),
      head_size_(other.head_size_),
      padded_head_size_(other.padded_head_size_),
      capacity_(other.capacity_),
      key_floats_(other.key_floats_),
      value_floats_(other.value_floats_),
      length_(other.length_),
      bytes_(other.bytes_),
      data_(reserve(other.bytes_)) {
  const int64_t key_floats = (length_ + kKeyBlock - 1) / kKeyBlock * kKeyBlock * head_size_;
  for (int64_t i = 0; i < layers_ * heads_; ++i) {
    const int64_t offset = i * (key_floats_ + value_floats_);
    std::copy_n(other.data_ + offset, key_floats, data_ + offset);
    std::copy_n(other.data_ + offset + key_floats_, length_ * padded_head_size_,
                data_ + offset + key_floats_);
  }
}

void KvCache::copy_out(float* keys, float* values) const {
  for (int64_t head = 0; head < layers_ * heads_; ++head) {
    const float* k = data_ + head * (key_floats_ + value_floats_);
    const float* v = k + key_floats_;
    for (int64_t position = 0; position < length_; ++position) {
      const float* key = k + position / kKeyBlock * kKeyBlock * head_size_ + position % kKeyBlock;
      for (int64_t d = 0; d < head_size_; ++d) *keys++ = key[d * kKeyBlock];
      values = std::copy_n(v + position * padded_head_size_, head_size_, values);
    }
  }
}

void KvCache::copy_in(const float* keys, const float* values, int64_t length) {
  for (int64_t layer = 0; layer < layers_; ++layer) {
    for (int64_t head = 0; head < heads_; ++head) {
      for (int64_t position = 0; position < length; ++position) {
        write(layer, head, position, keys, values);
        keys += head_size_;
        values += head_size_;
      }
    }
  }
  length_ = length;
}

KvCache::~KvCache() { munmap(data_, bytes_); }

}  // namespace gpt2kit
