// Scratch memory that grows when more is wanted.

#pragma once

#include <sys/mman.h>

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
    const size_t needed = static_cast<size_t>(floats) * sizeof(float);
    const size_t unit = needed < kLargePage ? 64 : kLargePage;
    const size_t bytes = (needed + unit - 1) / unit * unit;
    void* p = std::aligned_alloc(unit, bytes);
    if (!p) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (unit == kLargePage) madvise(p, bytes, MADV_HUGEPAGE);  // a wish: rows lie in many pages
#endif
    data_.reset(static_cast<float*>(p));
    floats_ = floats;
  }

 private:
  static constexpr size_t kLargePage = size_t{2} << 20;

  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float[], Free> data_;
  int64_t floats_ = 0;
};

}  // namespace gpt2kit
