// A fixed team of threads that run one function together (the caller is member 0).

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace gpt2kit {

// The part of [0, n) that a member works on, in whole multiples of `unit`.
struct Range {
  int64_t begin, end;
};

inline Range share(int64_t n, int64_t unit, int member, int members) {
  const int64_t units = (n + unit - 1) / unit;
  const auto bound = [&](int64_t m) { return std::min(n, units * m / members * unit); };
  return {bound(member), bound(member + 1)};
}

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // threads >= 1
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Runs body(member) on members 0 .. members-1 and returns when all are done. 1 <= members <= size(). One
  // caller at a time. body must not throw. In a process that was forked from the pool's, where its threads do
  // not exist, member 0 runs alone.
  void run(int members, const std::function<void(int)>& body);

  // How many members run now.
  int members() const { return members_; }

  // Called by every running member inside run(): nobody passes until all have arrived.
  void barrier();

 private:
  void work(int member);
  template <typename Done>
  void wait_until(const Done& done);
  void wake_sleepers();
  bool is_forked() const;

  const int size_;
  const int process_;
  std::vector<std::thread> workers_;
  const std::function<void(int)>* body_ = nullptr;
  int members_ = 1;
  std::atomic<unsigned> round_{0};
  std::atomic<int> running_{0};
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> phase_{0};
  std::atomic<int> sleepers_{0};
  bool stopping_ = false;

  // Apart, so that a forked process can leave it behind: a condition variable is not destroyed while
  // somebody waits for it, and the waiters exist in the parent only.
  struct Bed {
    std::mutex mutex;
    std::condition_variable wake;
  };
  std::unique_ptr<Bed> bed_ = std::make_unique<Bed>();
};

}  // namespace gpt2kit
