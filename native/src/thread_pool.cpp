#include "thread_pool.h"

#include <unistd.h>

#ifdef GPT2KIT_X86
#include <immintrin.h>
#endif

namespace gpt2kit {
namespace {

// A member that waits first spins, since the others are microseconds behind, then gives way to other
// processes: on a machine with fewer free cores than members, spinning on would keep the late one from
// its core.
template <typename Done>
void spin_until(const Done& done) {
  constexpr int kSpins = 20000;  // about 100 to 200 microseconds
  for (int i = 0; !done(); ++i) {
    if (i < kSpins) {
#ifdef GPT2KIT_X86
      _mm_pause();
#endif
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace

ThreadPool::ThreadPool(int threads) : size_(threads), process_(getpid()) {
  for (int member = 1; member < size_; ++member) workers_.emplace_back([this, member] { work(member); });
}

ThreadPool::~ThreadPool() {
  if (is_forked()) {
    for (std::thread& worker : workers_) worker.detach();
    static_cast<void>(bed_.release());
    return;
  }
  {
    const std::lock_guard<std::mutex> lock(bed_->mutex);
    stopping_ = true;
    round_.fetch_add(1, std::memory_order_release);
  }
  bed_->wake.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(int members, const std::function<void(int)>& body) {
  members_ = is_forked() ? 1 : members;
  if (members_ == 1) return body(0);
  body_ = &body;
  running_.store(size_ - 1, std::memory_order_relaxed);
  {
    const std::lock_guard<std::mutex> lock(bed_->mutex);
    round_.fetch_add(1, std::memory_order_release);
  }
  bed_->wake.notify_all();
  body(0);
  spin_until([this] { return running_.load(std::memory_order_acquire) == 0; });
}

bool ThreadPool::is_forked() const { return getpid() != process_; }

void ThreadPool::barrier() {
  if (members_ == 1) return;
  const unsigned phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == members_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.fetch_add(1, std::memory_order_release);
  } else {
    spin_until([&] { return phase_.load(std::memory_order_acquire) != phase; });
  }
}

void ThreadPool::work(int member) {
  unsigned seen = 0;
  for (;;) {
    // Between forward passes of one generation the next round comes soon, so spin a little before sleep.
    for (int i = 0; i < 2000 && round_.load(std::memory_order_acquire) == seen; ++i) {
#ifdef GPT2KIT_X86
      _mm_pause();
#endif
    }
    if (round_.load(std::memory_order_acquire) == seen) {
      std::unique_lock<std::mutex> lock(bed_->mutex);
      bed_->wake.wait(lock, [&] { return round_.load(std::memory_order_relaxed) != seen; });
    }
    ++seen;
    if (stopping_) return;
    if (member < members_) (*body_)(member);
    running_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace gpt2kit
