#include "thread_pool.h"

#include <unistd.h>

#ifdef GPT2KIT_X86
#include <immintrin.h>
#endif

namespace gpt2kit {
namespace {

// About 100 microseconds.
constexpr int kSpins = 10000;

void pause() {
#ifdef GPT2KIT_X86
  _mm_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) : size_(threads), process_(getpid()) {
  for (int member = 1; member < size_; ++member) workers_.emplace_back([this, member] { work(member); });
}

// A member that waits first spins, since the others are microseconds behind, then sleeps: on a machine with
// fewer free cores than members, spinning on would keep the late one from its core, and so would sched_yield,
// after which Linux lets others run for milliseconds.
template <typename Done>
void ThreadPool::wait_until(const Done& done) {
  for (int i = 0; i < kSpins; ++i) {
    if (done()) return;
    pause();
  }
  std::unique_lock<std::mutex> lock(bed_->mutex);
  sleepers_.fetch_add(1);
  bed_->wake.wait(lock, done);
  sleepers_.fetch_sub(1);
}

// After a change that others may wait for. Either this sees the sleeper, or the sleeper saw the change: both
// are sequentially consistent.
void ThreadPool::wake_sleepers() {
  if (sleepers_.load() == 0) return;
  {
    const std::lock_guard<std::mutex> lock(bed_->mutex);
  }
  bed_->wake.notify_all();
}

ThreadPool::~ThreadPool() {
  if (is_forked()) {
    for (std::thread& worker : workers_) worker.detach();
    static_cast<void>(bed_.release());
    return;
  }
  stopping_ = true;
  round_.fetch_add(1);
  wake_sleepers();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(int members, const std::function<void(int)>& body) {
  members_ = is_forked() ? 1 : members;
  if (members_ == 1) return body(0);
  body_ = &body;
  running_.store(size_ - 1);
  round_.fetch_add(1);
  wake_sleepers();
  body(0);
  wait_until([this] { return running_.load() == 0; });
}

bool ThreadPool::is_forked() const { return getpid() != process_; }

void ThreadPool::barrier() {
  if (members_ == 1) return;
  const unsigned phase = phase_.load();
  if (arrived_.fetch_add(1) == members_ - 1) {
    arrived_.store(0);
    phase_.fetch_add(1);
    wake_sleepers();
  } else {
    wait_until([&] { return phase_.load() != phase; });
  }
}

void ThreadPool::work(int member) {
  for (unsigned seen = 0;;) {
    // Between forward passes of one generation the next round comes soon.
    wait_until([&] { return round_.load() != seen; });
    ++seen;
    if (stopping_) return;
    if (member < members_) (*body_)(member);
    running_.fetch_sub(1);
    wake_sleepers();
  }
}

}  // namespace gpt2kit
