#include "head_scan.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "pack_int8.h"

namespace gpt2kit {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kMostNorm = 1e15f;  // of a row of the head or a state, so that no product of them overflows
constexpr float kUnderflow = 0x1p-90f;
constexpr int64_t kMostRows = 64;  // with more, integers are less than twice as fast as float32
// Where more than one logit in so many may be needed, all are computed.
constexpr int64_t kFewOf = 16;
constexpr int64_t kLeastPause = 8, kMostPause = 256;  // passes without a scan, after scans that did not pay
constexpr int64_t kBlock = 64;                        // words that are looked at together

// Whether test(v) for a v of [begin, end), the loop being one that compilers turn into registers of numbers.
template <typename Test>
bool any_of(int64_t begin, int64_t end, const Test& test) {
  int32_t count = 0;
  for (int64_t v = begin; v < end; ++v) count += test(v);
  return count != 0;
}

}  // namespace

HeadScan::HeadScan(const Tensor& head, int64_t vocab_size, int64_t channels, const Kernels& kernels,
                   ThreadPool& pool, const HeadScanOptions& options)
    : head_(head),
      vocab_size_(vocab_size),
      channels_(channels),
      kernels_(kernels),
      pool_(pool),
      is_mapped_(options.is_mapped),
      is_on_(options.after >= 0 && head.dtype != Dtype::kInt8),
      passes_to_wait_(options.after),
      members_(static_cast<size_t>(pool.size())) {}

HeadScan::Counts HeadScan::counts() const {
  Counts total;
  for (const Member& member : members_) {
    total.rows += member.counts.rows;
    total.logits += member.counts.logits;
    total.full_shares += member.counts.full_shares;
  }
  const int64_t outputs = int8_panels(vocab_size_) * kInt8Panel;
  if (copy_) total.bytes = outputs * int8_groups(channels_) * (kInt8Group + 2) + vocab_size_ * 8;
  return total;
}

bool HeadScan::prepare(const std::vector<const NeededLogits*>& needed) {
  if (!is_on_ || needed.empty() || static_cast<int64_t>(needed.size()) > kMostRows) return false;
  for (const NeededLogits* row : needed) {
    if (!row) return false;
    const int64_t most = row->top_k + static_cast<int64_t>(row->exact_ids.size());
    if (most * 2 * kFewOf > vocab_size_) return false;
  }
  if (has_scanned_) {
    const int64_t full_shares = counts().full_shares;
    // A scan that ends in a full reading costs more than it saves.
    pause_ = full_shares == full_shares_ ? 0 : std::clamp<int64_t>(2 * pause_, kLeastPause, kMostPause);
    passes_to_wait_ = pause_;
    full_shares_ = full_shares;
    has_scanned_ = false;
  }
  if (passes_to_wait_ > 0) {
    --passes_to_wait_;
    return false;
  }
  has_scanned_ = is_built();
  return has_scanned_;
}

// ---- the copy ----

bool HeadScan::is_built() {
  if (copy_) return true;
  const int64_t groups = int8_panels(vocab_size_) * int8_groups(channels_) * kInt8Panel;
  const auto V = static_cast<size_t>(vocab_size_);
  try {
    copy_.emplace(Copy{HugeBuffer(groups * kInt8Group), HugeBuffer(groups * 2), std::vector<float>(V),
                       std::vector<float>(V)});
  } catch (const std::bad_alloc&) {  // it saves time, no more
    is_on_ = false;
    return false;
  }
  if (!pack()) {  // weights that are no numbers
    copy_.reset();
    is_on_ = false;
    return false;
  }
  for (size_t v = 0; v < V; ++v) {
    float &error = copy_->errors[v], &norm = copy_->norms[v];
    const bool is_bounded = norm < kMostNorm;
    norm = is_bounded ? (norm + error) * (1 + 0x1p-20f) : 0.0f;
    if (!is_bounded) error = kInfinity;
  }
  return true;
}

// Fills the copy but for what is made of its norms; false if the head has no form in 8 bits.
bool HeadScan::pack() {
  constexpr int64_t kStep = 4096;  // words, so that little of a mapped head is in memory beside the copy
  for (int64_t v = 0; v < vocab_size_; v += kStep) {
    const int64_t count = std::min(kStep, vocab_size_ - v), groups = v * int8_groups(channels_);
    const Tensor part{head_.at(v * channels_), head_.dtype};
    const Int8Norms norms{copy_->norms.data() + v, copy_->errors.data() + v};
    if (!pack_int8(static_cast<uint8_t*>(copy_->codes.data()) + groups * kInt8Group,
                   static_cast<BFloat16*>(copy_->scales.data()) + groups,
                   {part, channels_, count, /*is_transposed=*/true}, kernels_, pool_.size(), &norms)) {
      return false;
    }
    if (is_mapped_) release_mapped(part.data, head_.at((v + count) * channels_));
  }
  return true;
}

// ---- the scan ----

void HeadScan::project(float* logits, const float* x, int64_t x_stride,
                       const std::vector<const NeededLogits*>& needed, int member) {
  const auto rows = static_cast<int64_t>(needed.size());
  const Range range = share(vocab_size_, kInt8Panel, member, pool_.members());
  Member& own = members_[member];
  bound_rows(logits, x, x_stride, rows, range, own);
  int64_t stride = 0;  // of best
  for (const NeededLogits* row : needed) stride = std::max(stride, row->top_k);
  own.best.assign(static_cast<size_t>(rows * stride), -kInfinity);
  for (int64_t b = 0; b < rows; ++b) {
    float* upper = logits + b * vocab_size_;
    const std::vector<int32_t>& exact_ids = needed[b]->exact_ids;
    for (auto id = std::lower_bound(exact_ids.begin(), exact_ids.end(), range.begin);
         id != exact_ids.end() && *id < range.end; ++id) {
      upper[*id] = NAN;  // not one of the best, and not below any bound
    }
    choose_best(upper, needed[b]->top_k, range, own.ids);
    compute(upper, x + b * x_stride, x_stride, own.ids);
    for (size_t i = 0; i < own.ids.size(); ++i) own.best[b * stride + i] = upper[own.ids[i]];
  }
  pool_.barrier();
  for (int64_t b = 0; b < rows; ++b) {
    const float least = least_needed(b, needed[b]->top_k, stride);
    settle(logits + b * vocab_size_, x + b * x_stride, x_stride, least, range, own);
  }
  if (member == 0) own.counts.rows += rows;
}

bool HeadScan::upper_bounds(const float* states, int64_t rows, float* upper) {
  if (!is_on_ || !is_built()) return false;
  bound_rows(upper, states, channels_, rows, {0, vocab_size_}, members_[0]);
  return true;
}

// The upper bounds of a range of words, which begins with a panel.
void HeadScan::bound_rows(float* upper, const float* x, int64_t x_stride, int64_t rows, Range range,
                          Member& own) const {
  const Int8Rows x_integers = integers(own, rows);
  kernels_.int8->quantize(x_integers, x, x_stride, channels_, 0, rows);
  const Int8Matrix matrix{static_cast<const uint8_t*>(copy_->codes.data()),
                          static_cast<const BFloat16*>(copy_->scales.data()), channels_, vocab_size_};
  const Epilogue plain{nullptr, Activation::kNone, /*add_to_out=*/false};
  kernels_.int8->multiply(upper, vocab_size_, x_integers, matrix, rows, range.begin / kInt8Panel,
                          int8_panels(range.end), plain);
  for (int64_t b = 0; b < rows; ++b) {
    raise_to_upper(upper + b * vocab_size_, bound(x + b * x_stride, x_integers, b), range);
  }
}

Int8Rows HeadScan::integers(Member& own, int64_t rows) const {
  const int64_t stride = int8_rows_stride(channels_), groups = int8_groups(channels_);
  own.values.resize(static_cast<size_t>(rows * stride));
  own.scales.resize(static_cast<size_t>(rows * groups));
  own.starts.resize(static_cast<size_t>(rows * groups));
  return {own.values.data(), stride, own.scales.data(), own.starts.data()};
}

HeadScan::Bound HeadScan::bound(const float* x, const Int8Rows& integers, int64_t row) const {
  constexpr int64_t kPlace[4] = {0, 2, 1, 3};  // of each four integers
  const int64_t groups = int8_groups(channels_);
  double squares = 0, rounding_squares = 0;
  for (int64_t k = 0; k < channels_; ++k) {
    const int16_t integer = integers.values[row * integers.stride + k / 4 * 4 + kPlace[k % 4]];
    const double rounding =
        x[k] - static_cast<double>(integer) * integers.scales[row * groups + k / kInt8Group];
    squares += static_cast<double>(x[k]) * x[k];
    rounding_squares += rounding * rounding;
  }
  const double length = std::sqrt(squares), rounding = std::sqrt(rounding_squares);
  if (!(length < kMostNorm && rounding < kMostNorm)) return {kInfinity, kInfinity};
  const double steps = 2 * static_cast<double>(channels_ / 16 + groups + 16) * 0x1p-24;
  return {static_cast<float>(length * (1 + 0x1p-20)),
          static_cast<float>((rounding + steps * (length + rounding)) * (1 + 0x1p-20))};
}

// Turns estimates into what their logits do not exceed; NaN or infinity where nothing is known.
void HeadScan::raise_to_upper(float* estimates, const Bound& bound, Range range) const {
  const float* errors = copy_->errors.data();
  const float* norms = copy_->norms.data();
  for (int64_t v = range.begin; v < range.end; ++v) {
    estimates[v] += bound.of_errors * errors[v] + bound.of_norms * norms[v] + kUnderflow;
  }
}

// The top_k words of a range with the largest finite bounds, or as many as there are.
void HeadScan::choose_best(const float* upper, int64_t top_k, Range range, std::vector<int32_t>& ids) const {
  const auto is_above = [upper](int32_t a, int32_t b) { return upper[a] > upper[b]; };
  ids.clear();  // a heap, the smallest on top
  float least = -kInfinity;
  for (int64_t begin = range.begin; begin < range.end; begin += kBlock) {
    const int64_t end = std::min(range.end, begin + kBlock);
    if (!any_of(begin, end, [&](int64_t v) { return upper[v] > least; })) continue;
    for (int64_t v = begin; v < end; ++v) {
      if (!(upper[v] > least && upper[v] < kInfinity)) continue;
      if (static_cast<int64_t>(ids.size()) == top_k) {
        std::pop_heap(ids.begin(), ids.end(), is_above);
        ids.pop_back();
      }
      ids.push_back(static_cast<int32_t>(v));
      std::push_heap(ids.begin(), ids.end(), is_above);
      if (static_cast<int64_t>(ids.size()) == top_k) least = upper[ids.front()];
    }
  }
}

// What a logit must reach to be needed, by the best that the members have found.
float HeadScan::least_needed(int64_t row, int64_t top_k, int64_t stride) const {
  std::vector<float> best;
  for (int member = 0; member < pool_.members(); ++member) {
    const float* begin = members_[member].best.data() + row * stride;
    best.insert(best.end(), begin, begin + top_k);
  }
  if (std::any_of(best.begin(), best.end(), [](float value) { return std::isnan(value); })) return -kInfinity;
  std::nth_element(best.begin(), best.begin() + (top_k - 1), best.end(), std::greater<>());
  const float least = best[top_k - 1];
  return least - (std::fabs(least) * 0x1p-20f + 0x1p-100f);
}

// Computes what may reach `least`, or the whole range if that is much.
void HeadScan::settle(float* upper, const float* x, int64_t x_stride, float least, Range range,
                      Member& own) const {
  const auto may_reach = [&](int64_t v) { return !(upper[v] < least); };
  own.ids.clear();
  for (int64_t begin = range.begin; begin < range.end; begin += kBlock) {
    const int64_t end = std::min(range.end, begin + kBlock);
    if (any_of(begin, end, may_reach)) {
      for (int64_t v = begin; v < end; ++v) {
        if (may_reach(v)) {
          own.ids.push_back(static_cast<int32_t>(v));
        } else {
          upper[v] = -kInfinity;
        }
      }
    } else {
      std::fill(upper + begin, upper + end, -kInfinity);
    }
  }
  const auto found = static_cast<int64_t>(own.ids.size()), words = range.end - range.begin;
  if (found * kFewOf <= words) {
    compute(upper, x, x_stride, own.ids);
    own.counts.logits += found;
  } else {
    kernels_.reading(head_.dtype)
        .project(upper, vocab_size_, x, x_stride, head_.data, 1, channels_, range.begin, range.end);
    own.counts.logits += words;
    ++own.counts.full_shares;
  }
}

void HeadScan::compute(float* logits, const float* x, int64_t x_stride,
                       const std::vector<int32_t>& ids) const {
  constexpr int64_t kLine = 64;  // bytes
  const auto project = kernels_.reading(head_.dtype).project;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i + 1 < ids.size()) {  // these rows lie too far apart for the hardware to foresee the next
      const auto* next = static_cast<const char*>(head_.at(ids[i + 1] * channels_));
      const auto* end = static_cast<const char*>(head_.at((ids[i + 1] + 1) * channels_));
      for (; next < end; next += kLine) __builtin_prefetch(next);
    }
    project(logits, vocab_size_, x, x_stride, head_.data, 1, channels_, ids[i], ids[i] + 1);
  }
}

}  // namespace gpt2kit
