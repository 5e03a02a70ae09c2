#include "roofline.h"

#include <algorithm>
#include <chrono>
#include <functional>

#include "thread_pool.h"

#ifdef GPT2KIT_X86
#include <immintrin.h>
#endif

namespace gpt2kit {
namespace {

using Clock = std::chrono::steady_clock;

// Runs body(member, members) on all threads at once, 1 + passes times; the seconds of each time but the
// first, from the first member's start to the last one's end.
std::vector<double> seconds_of(int threads, int passes, const std::function<void(int, int)>& body) {
  ThreadPool pool(threads);
  std::vector<Clock::time_point> begin(threads), end(threads);
  std::vector<double> seconds;
  pool.run(threads, [&](int member) {
    for (int pass = 0; pass <= passes; ++pass) {
      pool.barrier();
      begin[member] = Clock::now();
      body(member, pool.members());
      end[member] = Clock::now();
      pool.barrier();
      if (member > 0 || pass == 0) continue;
      const auto first = *std::min_element(begin.begin(), begin.begin() + pool.members());
      const auto last = *std::max_element(end.begin(), end.begin() + pool.members());
      seconds.push_back(std::chrono::duration<double>(last - first).count());
    }
  });
  return seconds;
}

// ---- reading ----

using Word = uint64_t __attribute__((vector_size(64), aligned(1)));

// The sum of all words, from two runs side by side, each fetched ahead: hardware fetches ahead within a page
// of 4 KiB only. One run alone, or without fetching, is up to a fifth slower; more runs are slower too.
uint64_t sum_words(const char* data, int64_t bytes) {
  constexpr int64_t kWord = sizeof(Word), kAhead = 16384;
  const int64_t run = bytes / 2 / kWord * kWord;
  const char* second_run = data + run;
  Word first = {}, second = {};
  for (int64_t i = 0; i < run; i += kWord) {
    __builtin_prefetch(data + i + kAhead, /*rw=*/0, /*locality=*/0);
    __builtin_prefetch(second_run + i + kAhead, /*rw=*/0, /*locality=*/0);
    first += *reinterpret_cast<const Word*>(data + i);
    second += *reinterpret_cast<const Word*>(second_run + i);
  }
  first += second;
  uint64_t total = 0;
  for (int lane = 0; lane < 8; ++lane) total += first[lane];
  for (int64_t i = 2 * run; i < bytes; ++i) total += static_cast<unsigned char>(data[i]);
  return total;
}

// ---- arithmetic ----

constexpr int64_t kSteps = 2000000;  // of kChains instructions each: 3 milliseconds or more
// Independent chains, so that a pipeline of latency 4 or 5 that starts two instructions a cycle is always
// full.
constexpr int kChains = 12;

// Multiplies and adds as the compiler's target allows, for processors that have nothing below.
float float32_portable(float seed) {
  float x[kChains * 4];
  for (int i = 0; i < kChains * 4; ++i) x[i] = seed + static_cast<float>(i);
  for (int64_t step = 0; step < kSteps; ++step)
    for (float& lane : x) lane = lane * 0.9999f + 1e-6f;
  float sum = 0;
  for (const float lane : x) sum += lane;
  return sum;
}

struct Loop {
  float (*run)(float seed);
  double operations;  // of one instruction
};

#ifdef GPT2KIT_X86

__attribute__((target("avx2,fma"))) float float32_avx2(float seed) {
  __m256 x[kChains];
  for (int i = 0; i < kChains; ++i) x[i] = _mm256_set1_ps(seed + static_cast<float>(i));
  const __m256 factor = _mm256_set1_ps(0.9999f), summand = _mm256_set1_ps(1e-6f);
  for (int64_t step = 0; step < kSteps; ++step)
    for (int i = 0; i < kChains; ++i) x[i] = _mm256_fmadd_ps(x[i], factor, summand);
  for (int i = 1; i < kChains; ++i) x[0] = _mm256_add_ps(x[0], x[i]);
  return _mm256_cvtss_f32(x[0]);
}

__attribute__((target("avx512f"))) float float32_avx512(float seed) {
  __m512 x[kChains];
  for (int i = 0; i < kChains; ++i) x[i] = _mm512_set1_ps(seed + static_cast<float>(i));
  const __m512 factor = _mm512_set1_ps(0.9999f), summand = _mm512_set1_ps(1e-6f);
  for (int64_t step = 0; step < kSteps; ++step)
    for (int i = 0; i < kChains; ++i) x[i] = _mm512_fmadd_ps(x[i], factor, summand);
  for (int i = 1; i < kChains; ++i) x[0] = _mm512_add_ps(x[0], x[i]);
  return _mm512_cvtss_f32(x[0]);
}

__attribute__((target("avx512f,avx512bf16"))) float bfloat16_avx512(float seed) {
  __m512 x[kChains];
  for (int i = 0; i < kChains; ++i) x[i] = _mm512_set1_ps(seed + static_cast<float>(i));
  const __m512bh a = _mm512_cvtne2ps_pbh(x[1], x[2]), b = _mm512_cvtne2ps_pbh(x[0], x[0]);
  for (int64_t step = 0; step < kSteps; ++step)
    for (int i = 0; i < kChains; ++i) x[i] = _mm512_dpbf16_ps(x[i], a, b);
  for (int i = 1; i < kChains; ++i) x[0] = _mm512_add_ps(x[0], x[i]);
  return _mm512_cvtss_f32(x[0]);
}

__attribute__((target("avx512f,avx512vnni"))) float int8_avx512(float seed) {
  __m512i x[kChains];
  for (int i = 0; i < kChains; ++i) x[i] = _mm512_set1_epi32(static_cast<int>(seed) + i);
  const __m512i a = x[1], b = x[2];
  for (int64_t step = 0; step < kSteps; ++step)
    for (int i = 0; i < kChains; ++i) x[i] = _mm512_dpbusd_epi32(x[i], a, b);
  for (int i = 1; i < kChains; ++i) x[0] = _mm512_add_epi32(x[0], x[i]);
  return static_cast<float>(_mm_cvtsi128_si32(_mm512_castsi512_si128(x[0])));
}

#endif

// The widest loop that this processor can run; without one, run is null.
Loop choose_loop(Arithmetic arithmetic) {
#ifdef GPT2KIT_X86
  const bool is_wide = __builtin_cpu_supports("avx512f");
  if (arithmetic == Arithmetic::kBFloat16 && is_wide && __builtin_cpu_supports("avx512bf16"))
    return {bfloat16_avx512, 64};
  if (arithmetic == Arithmetic::kInt8 && is_wide && __builtin_cpu_supports("avx512vnni"))
    return {int8_avx512, 128};
  if (arithmetic == Arithmetic::kFloat32 && is_wide) return {float32_avx512, 32};
  if (arithmetic == Arithmetic::kFloat32 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return {float32_avx2, 16};
#endif
  if (arithmetic == Arithmetic::kFloat32) return {float32_portable, 8};
  return {nullptr, 0};
}

}  // namespace

std::vector<double> read_bytes_per_s(const std::vector<Bytes>& ranges, int threads, int passes) {
  int64_t total = 0;
  for (const Bytes& range : ranges) total += range.bytes;
  std::vector<uint64_t> sums(threads);
  std::vector<double> found = seconds_of(threads, passes, [&](int member, int members) {
    const int64_t from = total * member / members, to = total * (member + 1) / members;
    int64_t position = 0;  // of the range's first byte among all
    uint64_t sum = 0;
    for (const Bytes& range : ranges) {
      const int64_t begin = std::clamp<int64_t>(from - position, 0, range.bytes);
      const int64_t end = std::clamp<int64_t>(to - position, 0, range.bytes);
      sum += sum_words(static_cast<const char*>(range.data) + begin, end - begin);
      position += range.bytes;
    }
    static_cast<volatile uint64_t&>(sums[member]) = sum;
  });
  for (double& value : found) value = static_cast<double>(total) / value;
  return found;
}

std::vector<double> operations_per_s(Arithmetic arithmetic, int threads, int passes) {
  const Loop loop = choose_loop(arithmetic);
  if (!loop.run) return {};
  std::vector<float> sums(threads);
  int members_running = threads;
  std::vector<double> found = seconds_of(threads, passes, [&](int member, int members) {
    static_cast<volatile float&>(sums[member]) = loop.run(static_cast<float>(member));
    if (member == 0) members_running = members;
  });
  for (double& value : found) value = loop.operations * kChains * kSteps * members_running / value;
  return found;
}

}  // namespace gpt2kit
