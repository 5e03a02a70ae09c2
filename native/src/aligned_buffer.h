// Scratch memory that grows when more is wanted.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace gpt2kit {

// Floats from a 64-byte boundary on. What they held is lost when the buffer grows.
class AlignedBuffer {
 public:
  float* data() const { return data_.get(); }

  void reserve(int64_t floats) {
    if (floats <= floats_) return;
    const size_t bytes = static_cast<size_t>((floats + 15) / 16 * 16) * sizeof(float);
    void* p = std::aligned_alloc(64, bytes);
    if (!p) throw std::bad_alloc();
    data_.reset(static_cast<float*>(p));
    floats_ = floats;
  }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float[], Free> data_;
  int64_t floats_ = 0;
};

}  // namespace gpt2kit
