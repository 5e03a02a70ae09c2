// Memory for weights that are read from end to end: in pages of 2 MiB where the system has them.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace gpt2kit {

// Bytes from a 64-byte boundary on, not initialised.
class HugeBuffer {
 public:
  explicit HugeBuffer(int64_t bytes) {
    constexpr size_t kPage = size_t{1} << 21;
    const size_t size = (static_cast<size_t>(bytes) + kPage - 1) / kPage * kPage;
    data_.reset(std::aligned_alloc(kPage, size));
    if (!data_) throw std::bad_alloc();
#ifdef __linux__
    madvise(data_.get(), size, MADV_HUGEPAGE);  // pages of the usual size where it cannot be had
#endif
  }

  void* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> data_;
};

// Gives the memory of a file's pages back, those that lie within; they are read again when they are used.
// Only for bytes that are mapped from a file and were not changed.
inline void release_mapped(const void* begin, const void* end) {
#ifdef __linux__
  constexpr uintptr_t kPage = 4096;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + kPage - 1) / kPage * kPage;
  const uintptr_t last = reinterpret_cast<uintptr_t>(end) / kPage * kPage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
#else
  static_cast<void>(begin), static_cast<void>(end);
#endif
}

}  // namespace gpt2kit
