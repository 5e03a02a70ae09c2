#include "kv_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <new>
#include <tuple>
#include <vector>

namespace gpt2kit {
namespace {

// The memory of the last cache that has gone, unless it is large, for the next one of its shape: to have
// pages made anew takes a tenth of the time of a prompt in int8. What lies in them is past the end of a
// cache, as after truncate(), and what pads rows in this shape is zero still.
struct Spare {
  using Shape = std::tuple<KvFormat, int64_t, int64_t, int64_t, int64_t>;
  std::mutex mutex;
  Shape shape;
  char* data = nullptr;
  size_t bytes = 0;
};

Spare& spare() {
  static Spare* const the_one = new Spare;  // never destroyed: a cache may go at exit
  return *the_one;
}

char* reserve(size_t bytes, const Spare::Shape& shape) {
  {
    const std::lock_guard<std::mutex> lock(spare().mutex);
    if (spare().data && spare().shape == shape && spare().bytes == bytes) {
      char* data = spare().data;
      spare().data = nullptr;
      return data;
    }
  }
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  return static_cast<char*>(p);
}

void release(char* data, size_t bytes, const Spare::Shape& shape) {
  constexpr size_t kMostSpare = size_t{128} << 20;
  if (bytes <= kMostSpare) {
    const std::lock_guard<std::mutex> lock(spare().mutex);
    std::swap(data, spare().data);
    std::swap(bytes, spare().bytes);
    spare().shape = shape;
  }
  if (data) munmap(data, bytes);
}

// The bytes of so many blocks, as whole cache lines.
int64_t lines(int64_t blocks, KvFormat format, int64_t width) {
  return (blocks * kv_block_bytes(format, width) + 63) / 64 * 64;
}

}  // namespace

KvCache::KvCache(const ModelShape& shape, KvFormat format)
    : format_(format),
      layers_(shape.n_layer),
      heads_(shape.n_head),
      head_size_(shape.head_size()),
      padded_head_size_(shape.padded_head_size()) {
  const int64_t blocks = kv_blocks(shape.n_positions);
  values_offset_ = lines(blocks, format, head_size_);
  head_bytes_ = values_offset_ + lines(blocks, format, padded_head_size_);
  bytes_ = static_cast<size_t>(layers_ * heads_ * head_bytes_);
  data_ = reserve(bytes_, {format_, layers_, heads_, head_size_, head_bytes_});
}

KvCache::KvCache(const KvCache& other)
    : format_(other.format_),
      layers_(other.layers_),
      heads_(other.heads_),
      head_size_(other.head_size_),
      padded_head_size_(other.padded_head_size_),
      values_offset_(other.values_offset_),
      head_bytes_(other.head_bytes_),
      length_(other.length_),
      bytes_(other.bytes_),
      data_(reserve(other.bytes_, {format_, layers_, heads_, head_size_, head_bytes_})) {
  const int64_t blocks = kv_blocks(length_);
  const auto key_bytes = static_cast<size_t>(blocks * kv_block_bytes(format_, head_size_));
  const auto value_bytes = static_cast<size_t>(blocks * kv_block_bytes(format_, padded_head_size_));
  for (int64_t head = 0; head < layers_ * heads_; ++head) {
    const int64_t keys = head * head_bytes_, values = keys + values_offset_;
    std::memcpy(data_ + keys, other.data_ + keys, key_bytes);
    std::memcpy(data_ + values, other.data_ + values, value_bytes);
  }
}

int64_t KvCache::bytes() const {
  const int64_t block = kv_block_bytes(format_, head_size_) + kv_block_bytes(format_, padded_head_size_);
  return layers_ * heads_ * kv_blocks(length_) * block;
}

void KvCache::copy_out(const AttentionKernels& kernels, float* keys, float* values) const {
  const int64_t positions = kv_blocks(length_) * kKeyBlock;
  std::vector<float> wide_keys(static_cast<size_t>(positions * head_size_));
  std::vector<float> wide_values(static_cast<size_t>(positions * padded_head_size_));
  for (int64_t head = 0; head < layers_ * heads_; ++head) {
    const char* k = data_ + head * head_bytes_;
    kernels.widen(wide_keys.data(), wide_values.data(), k, k + values_offset_, length_, head_size_);
    for (int64_t position = 0; position < length_; ++position) {
      const int64_t block = position / kKeyBlock;
      const float* key = wide_keys.data() + block * kKeyBlock * head_size_ + position % kKeyBlock;
      for (int64_t d = 0; d < head_size_; ++d) *keys++ = key[d * kKeyBlock];
      values = std::copy_n(wide_values.data() + position * padded_head_size_, head_size_, values);
    }
  }
}

void KvCache::copy_in(const AttentionKernels& kernels, const float* keys, const float* values,
                      int64_t length) {
  for (int64_t layer = 0; layer < layers_; ++layer) {
    for (int64_t head = 0; head < heads_; ++head) {
      const int64_t offset = head_index(layer, head) * length * head_size_;
      kernels.append(this->keys(layer, head), this->values(layer, head), keys + offset, values + offset,
                     head_size_, length, /*past=*/0, head_size_);
    }
  }
  length_ = length;
}

KvCache::~KvCache() { release(data_, bytes_, {format_, layers_, heads_, head_size_, head_bytes_}); }

}  // namespace gpt2kit
