// The logits that a choice can depend on, from a reading of a quarter of the head's bytes.
//
// A copy of the head in the 8 bits of kernels_int8.h gives an estimate of every logit and a bound of its
// error. What the bound keeps below the k-th largest logit cannot be among the k largest; the others are
// computed by the kernel that computes them all, so they have its bits. The copy thus changes no choice, only
// the bytes.
//
// The bound. Let w be a row of the head, w^ what its codes stand for, e = w - w^; x the state, x^ what its
// integers stand for; u = 2^-24; C channels in G groups; |.| the Euclidean norm. Then
//   logit    = x.w, but for (C/16 + 6) u |x| |w|: its longest chain has C/16 multiply-adds, then 4 additions;
//   x.w      = x^.w^ + x.e + (x - x^).w^, where |x.e| <= |x| |e| and |(x - x^).w^| <= |x - x^| |w^|;
//   estimate = x^.w^, but for (G + 3) u |x^| |w^|: G multiply-adds of products that were rounded twice.
// With |w^| <= |w| + |e|, |x^| <= |x| + |x - x^| and counts of roundings that are too large by enough for
// terms in u^2 and for the arithmetic of the bound itself,
//   |logit - estimate| <= |x| |e| + (|x - x^| + 2 (C/16 + G + 16) u (|x| + |x - x^|)) (|w| + |e|) + 2^-90,
// the last for what underflows. Norms are rounded up; nothing overflows where they are below kMostNorm, and
// what is not is computed in full.

#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "aligned_buffer.h"
#include "huge_buffer.h"
#include "kernels.h"
#include "needed_logits.h"
#include "thread_pool.h"

namespace gpt2kit {

struct HeadScanOptions {
  // A copy is made when so many passes could have used one; -1 for never, as for a head that may change.
  int64_t after = -1;
  // The head lies in a file that is mapped and cannot change: making the copy gives its memory back.
  bool is_mapped = false;
};

class HeadScan {
 public:
  // The head (V, C) must live as long as this does, and not change once a copy was made.
  HeadScan(const Tensor& head, int64_t vocab_size, int64_t channels, const Kernels& kernels, ThreadPool& pool,
           const HeadScanOptions& options);

  // Whether to scan for a pass that needs these logits of its rows (null: all of them). Makes the copy when
  // it is time, on all threads of the pool.
  bool prepare(const std::vector<const NeededLogits*>& needed);

  // logits (needed.size(), V): where they are needed as MatrixKernels::project gives them, elsewhere so or
  // -infinity. x (needed.size(), C) with row stride x_stride. Called by all running members of the pool
  // together, each with its number, after a prepare() that said yes. Waits for the others once.
  void project(float* logits, const float* x, int64_t x_stride,
               const std::vector<const NeededLogits*>& needed, int member);

  // upper (rows, V): what the logits of states (rows, C) do not exceed; NaN or infinity where nothing is
  // known. Makes the copy if there is none. Called by one thread, while no pass runs; false where the scan is
  // off.
  bool upper_bounds(const float* states, int64_t rows, float* upper);

  struct Counts {
    int64_t rows = 0;         // that were scanned
    int64_t logits = 0;       // that were computed for them
    int64_t full_shares = 0;  // shares of a row, one for each member, that were computed in full
    int64_t bytes = 0;        // of the copy
  };
  Counts counts() const;

 private:
  struct Bound {  // |logit - estimate| <= of_errors * errors[v] + of_norms * norms[v] + kUnderflow
    float of_errors, of_norms;
  };
  struct Copy {
    HugeBuffer codes, scales;
    std::vector<float> errors;  // (V): |e|, or infinity for a row that is always computed
    std::vector<float> norms;   // (V): |w| + |e|
  };
  struct Member {
    std::vector<int16_t> values;
    std::vector<float> scales;
    std::vector<int32_t> starts;
    std::vector<float> best;  // (rows, top_k): the largest of the logits it computed first, or -infinity
    std::vector<int32_t> ids;
    Counts counts;
  };

  bool is_built();
  bool pack();
  void bound_rows(float* upper, const float* x, int64_t x_stride, int64_t rows, Range range,
                  Member& own) const;
  Int8Rows integers(Member& own, int64_t rows) const;
  Bound bound(const float* x, const Int8Rows& integers, int64_t row) const;
  void raise_to_upper(float* estimates, const Bound& bound, Range range) const;
  void choose_best(const float* upper, int64_t top_k, Range range, std::vector<int32_t>& ids) const;
  float least_needed(int64_t row, int64_t top_k, int64_t stride) const;
  void settle(float* upper, const float* x, int64_t x_stride, float least, Range range, Member& own) const;
  void compute(float* logits, const float* x, int64_t x_stride, const std::vector<int32_t>& ids) const;

  const Tensor head_;
  const int64_t vocab_size_, channels_;
  const Kernels& kernels_;
  ThreadPool& pool_;
  std::optional<Copy> copy_;
  const bool is_mapped_;
  bool is_on_;
  int64_t passes_to_wait_, pause_ = 0;
  bool has_scanned_ = false;  // since prepare() last looked
  int64_t full_shares_ = 0;   // as it last saw them
  std::vector<Member> members_;
};

}  // namespace gpt2kit
