// A GPT-2 forward pass over a ragged batch.

#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "aligned_buffer.h"
#include "head_scan.h"
#include "kv_cache.h"
#include "model.h"
#include "products.h"
#include "thread_pool.h"

namespace gpt2kit {

enum class Rows { kNone, kLast, kAll };

// New tokens of one sequence, and which of their rows are wanted. The same cache must not occur twice.
struct Work {
  KvCache* cache;            // of the model's kv_format
  const int32_t* token_ids;  // each in [0, V)
  int64_t tokens;            // >= 1; cache->length() + tokens <= n_positions
  Phase phase = Phase::kPrefill;

  // For this sequence alone, T = tokens and S = cache->length() + T; null where they are not wanted.
  float* hidden_states = nullptr;  // (n_layer + 1, T, C): embeddings, after each block, the last after ln_f
  float* attentions = nullptr;     // (n_layer, H, T, S); must be zero, as positions not seen are left alone

  // The logits that its rows need, or null for all: others may be -infinity.
  const NeededLogits* needed = nullptr;
};

class Forward {
 public:
  // bfloat16: null to compute in float32, or the kernels that round activations before each product with a
  // matrix; then those matrices are bfloat16. precisions: for matrices in codes.
  Forward(Model model, int threads, const Kernels& kernels, const BFloat16Kernels* bfloat16,
          Precisions precisions, const HeadScanOptions& head_scan = {});

  const Model& model() const { return model_; }
  const Kernels& kernels() const { return kernels_; }
  int threads() const { return pool_.size(); }

  // Appends the tokens to their caches. Writes one row of logits (V) for the last or for every token, in
  // the order of the work, if logits is not null; likewise the hidden states after ln_f (C) for every
  // token if hidden is not null. head_mask (n_layer, n_head), or null, multiplies the probabilities of each
  // head. Calls from several threads take turns.
  void run(const std::vector<Work>& work, Rows logits_rows, float* logits, float* hidden,
           const float* head_mask = nullptr);

  // Multiplies states (rows, C) by the head as they are: logits (rows, V).
  void project(const float* states, int64_t rows, float* logits, Phase phase);

  HeadScan::Counts head_scan_counts();
  bool head_upper_bounds(const float* states, int64_t rows, float* upper);  // see HeadScan

 private:
  struct Span;  // consecutive rows of a pass that belong to one sequence
  struct Pass;

  void run_pass(const Pass& pass, int member);
  void embed(const Pass& pass, int member);
  Activations normalize(const Pass& pass, const Norm& norm, int member);
  void norm_row(void* out, int64_t row, int64_t out_row, const float* weight, const float* bias, int member);
  void round_row(BFloat16* out, const float* x) const;
  void attend(const Pass& pass, int64_t layer, int member);
  void head(const Pass& pass, int member);
  void capture_hidden(const Pass& pass, int64_t layer, int member);
  void reserve(int64_t rows, int64_t longest);

  const Model model_;
  const Kernels& kernels_;
  const BFloat16Kernels* const bfloat16_;
  ThreadPool pool_;
  Products products_;
  HeadScan head_scan_;
  std::mutex mutex_;

  // Activations of one pass; strides in elements: floats, or where a product reads them and bfloat16_ is set,
  // values of bfloat16.
  int64_t stride_, qkv_stride_, inner_stride_;
  const int64_t weights_per_row_;
  AlignedBuffer hidden_, normed_, qkv_, attended_, inner_;
  std::vector<AlignedBuffer> private_normed_, widened_, scratch_;  // one for each member of the pool
};

}  // namespace gpt2kit
