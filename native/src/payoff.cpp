#include "payoff.h"

#include <algorithm>
#include <cmath>
#include <queue>
#include <utility>

namespace gpt2kit {
namespace {

// Measurements older than this many passes are forgotten, so that everything is tried again now and then.
constexpr int64_t kFreshPasses = 64;

// One pass may have been held up, two in a row hardly.
constexpr int64_t kEnough = 2;

// A pass of one more token is expected to take so much longer until both are measured.
constexpr double kExpectedSlope = 0.1;

// A count weighs as much as the expectation, then more; what was counted long ago fades.
constexpr double kExpectationWeight = 3;
constexpr double kFade = 0.97;

// Bounds the logits that one check of guesses makes.
constexpr int64_t kMaxTokens = 128;

}  // namespace

double PassTimes::Measured::least() const {
  return *std::min_element(seconds, seconds + std::min<int64_t>(count, kKept));
}

void PassTimes::add(int64_t tokens, double seconds) {
  ++num_passes_;
  Measured& measured = measured_[tokens];
  if (!is_fresh(measured)) measured.count = 0;
  measured.seconds[measured.count++ % kKept] = seconds;
  measured.last = num_passes_;
}

bool PassTimes::is_fresh(const Measured& measured) const {
  return measured.count > 0 && num_passes_ - measured.last < kFreshPasses;
}

bool PassTimes::knows(int64_t tokens) const {
  const auto end = measured_.upper_bound(tokens + tokens / 4);
  for (auto at = measured_.lower_bound(tokens - tokens / 4); at != end; ++at) {
    if (is_fresh(at->second) && at->second.count >= kEnough) return true;
  }
  return false;
}

// A line through the neighbours, or through the two ends for what lies outside. More tokens never take less
// time, so a pass that the machine held up stands corrected by a larger one that it did not.
double PassTimes::estimate(int64_t tokens, double otherwise) const {
  using Point = std::pair<double, double>;  // tokens, seconds
  std::vector<Point> points;
  for (const auto& [measured_tokens, measured] : measured_) {
    if (!is_fresh(measured)) continue;
    const Point point{static_cast<double>(measured_tokens), measured.least()};
    for (Point& smaller : points) smaller.second = std::min(smaller.second, point.second);
    points.push_back(point);
  }
  if (points.empty()) return otherwise;
  const Point least = points.front(), most = points.back();
  const auto x = static_cast<double>(tokens);
  const auto above = std::lower_bound(points.begin(), points.end(), Point{x, 0});
  if (above != points.end() && (above->first == x || above != points.begin())) {
    if (above->first == x) return above->second;
    const Point below = *std::prev(above);
    return below.second + (above->second - below.second) * (x - below.first) / (above->first - below.first);
  }
  double slope = kExpectedSlope * least.second / least.first;
  if (most.first > least.first) {
    slope = std::max(slope / 4, (most.second - least.second) / (most.first - least.first));
  }
  if (above == points.end()) return most.second + slope * (x - most.first);
  return std::max(least.second / least.first * x, least.second - slope * (least.first - x));
}

Chances::Chances(std::vector<double> expected) : counts_(expected.size()), expected_(std::move(expected)) {}

size_t Chances::index(int64_t num_before) const {
  return std::min(static_cast<size_t>(num_before), counts_.size() - 1);
}

double Chances::of(int64_t num_before) const {
  const size_t i = index(num_before);
  return (counts_[i].right + kExpectationWeight * expected_[i]) / (counts_[i].all + kExpectationWeight);
}

void Chances::add(int64_t num_before, bool is_right) {
  Count& count = counts_[index(num_before)];
  count = {count.right * kFade + (is_right ? 1 : 0), count.all * kFade + 1};
}

void Chances::fade() {
  for (Count& count : counts_) count = {count.right * kFade, count.all * kFade};
}

void plan(std::vector<Candidate>& candidates, int64_t num_rows, const Chances& chances,
          const PassTimes& times, const PassTimes* draft_times, double draft_share) {
  // The next token of each candidate by its chance to be reached and right; a row's tokens come in order,
  // since their chances only fall.
  struct Next {
    double chance;
    size_t candidate;
    bool operator<(const Next& other) const {
      return chance < other.chance || (chance == other.chance && candidate > other.candidate);
    }
  };
  std::priority_queue<Next> queue;
  for (size_t i = 0; i < candidates.size(); ++i) {
    candidates[i].planned = 0;
    if (candidates[i].most > 0) queue.push({chances.of(candidates[i].evidence), i});
  }
  const double plain = times.estimate(num_rows);
  std::vector<int64_t> drafting;  // how many rows take part in each pass of the draft
  const auto draft_seconds = [&](int64_t rows) {
    return rows == 0 ? 0.0 : draft_times->estimate(rows, plain * draft_share);
  };
  std::vector<size_t> added;
  double settled = static_cast<double>(num_rows), drafts = 0;
  double best = settled / plain;
  size_t num_best = 0;
  while (!queue.empty() && num_rows + static_cast<int64_t>(added.size()) < kMaxTokens) {
    const Next next = queue.top();
    queue.pop();
    Candidate& candidate = candidates[next.candidate];
    if (draft_times) {
      drafting.resize(std::max(drafting.size(), static_cast<size_t>(candidate.planned) + 1));
      int64_t& rows = drafting[candidate.planned];
      drafts += draft_seconds(rows + 1) - draft_seconds(rows);
      ++rows;
    }
    added.push_back(next.candidate);
    settled += next.chance;
    const double seconds = times.estimate(num_rows + static_cast<int64_t>(added.size())) + drafts;
    if (settled / seconds > best) {
      best = settled / seconds;
      num_best = added.size();
    }
    if (++candidate.planned < candidate.most) {
      queue.push({next.chance * chances.of(candidate.evidence + candidate.planned), next.candidate});
    }
  }
  for (Candidate& candidate : candidates) candidate.planned = 0;
  for (size_t i = 0; i < num_best; ++i) ++candidates[added[i]].planned;
}

}  // namespace gpt2kit
