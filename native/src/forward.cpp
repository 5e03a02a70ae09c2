#include "forward.h"

#include <algorithm>
#include <cmath>

namespace gpt2kit {
namespace {

// Bounds the memory of activations; results do not depend on it, since no row depends on its neighbours.
constexpr int64_t kPassRows = 512;

// Rows an even number of cache lines apart crowd into half of the cache's sets.
int64_t padded_stride(int64_t n) {
  const int64_t lines = (n + 15) / 16;
  return (lines % 2 ? lines : lines + 1) * 16;
}

// Below this many multiply-adds (some 50 microseconds of one core) a pass runs on the calling thread.
constexpr int64_t kAloneWeights = int64_t{1} << 20;

void multiply_by(float* values, int64_t n, float factor) {
  for (int64_t i = 0; i < n; ++i) values[i] *= factor;
}

}  // namespace

struct Forward::Span {
  const Work* work;
  int64_t done;  // tokens of the work that came in earlier passes
  int64_t tokens, past, row;

  const int32_t* token_ids() const { return work->token_ids + done; }
  // Where the work's hidden states and probabilities of these tokens begin.
  float* hidden_states(int64_t layer, int64_t C) const {
    return work->hidden_states + (layer * work->tokens + done) * C;
  }
  int64_t length() const { return past - done + work->tokens; }  // S when all of the work is done
  float* attentions(int64_t head) const {                        // counted over all layers
    return work->attentions + (head * work->tokens + done) * length();
  }
};

struct Forward::Pass {
  std::vector<Span> spans;
  int64_t rows = 0;
  std::vector<int64_t> logits_rows;
  std::vector<const NeededLogits*> needed;  // of each of them
  bool scans_head = false;
  float* logits = nullptr;  // (logits_rows.size(), V)
  float* hidden = nullptr;  // (rows, C)
  const float* head_mask = nullptr;
  bool captures_hidden_states = false;
  Phase phase = Phase::kPrefill;  // of all its rows
};

Forward::Forward(Model model, int threads, const Kernels& kernels, const BFloat16Kernels* bfloat16,
                 Precisions precisions, const HeadScanOptions& head_scan)
    : model_(std::move(model)),
      kernels_(kernels),
      bfloat16_(bfloat16),
      pool_(threads),
      products_(model_, kernels, bfloat16, precisions, pool_),
      // The scan reads states in float32.
      head_scan_(model_.lm_head, model_.shape.vocab_size, model_.shape.n_embd, kernels, pool_,
                 bfloat16 ? HeadScanOptions{} : head_scan),
      stride_(padded_stride(model_.shape.n_embd)),
      qkv_stride_(padded_stride(3 * model_.shape.n_embd)),
      inner_stride_(padded_stride(model_.shape.n_inner)),
      weights_per_row_(model_.shape.n_layer * model_.shape.n_embd *
                           (4 * model_.shape.n_embd + 2 * model_.shape.n_inner) +
                       model_.shape.n_embd * model_.shape.vocab_size),
      private_normed_(static_cast<size_t>(threads)),
      widened_(static_cast<size_t>(threads)),
      scratch_(static_cast<size_t>(threads)) {}

void Forward::reserve(int64_t rows, int64_t longest) {
  const ModelShape& shape = model_.shape;
  hidden_.reserve(rows * stride_);
  normed_.reserve(rows * stride_);
  qkv_.reserve(rows * qkv_stride_);
  attended_.reserve(rows * stride_);
  inner_.reserve(rows * inner_stride_);
  products_.reserve(rows);
  // In steps, so that a sequence which grows does not move it at every token.
  const int64_t positions = std::min(shape.n_positions, (longest + 1023) / 1024 * 1024);
  const int64_t scratch =
      std::max(shape.n_embd, attention_scratch_floats(model_.kv_format, positions, shape.head_size()));
  for (int member = 0; member < pool_.size(); ++member) {
    private_normed_[member].reserve(kPrivateRows * stride_);
    widened_[member].reserve(2 * shape.n_embd);
    scratch_[member].reserve(scratch);
  }
}

void Forward::run(const std::vector<Work>& work, Rows logits_rows, float* logits, float* hidden,
                  const float* head_mask) {
  const std::lock_guard<std::mutex> lock(mutex_);
  size_t item = 0;
  int64_t done = 0;  // tokens of that item
  while (item < work.size()) {
    Pass pass;
    pass.phase = work[item].phase;
    int64_t longest = 0;
    while (item < work.size() && pass.rows < kPassRows) {
      const Work& w = work[item];
      if (w.phase != pass.phase && products_.depends_on_phase()) break;
      const int64_t tokens = std::min(w.tokens - done, kPassRows - pass.rows);
      const int64_t past = w.cache->length() + done;
      pass.spans.push_back({&w, done, tokens, past, pass.rows});
      if (w.hidden_states) pass.captures_hidden_states = true;
      longest = std::max(longest, past + tokens);
      done += tokens;
      const bool finished = done == w.tokens;
      if (logits && logits_rows == Rows::kAll) {
        for (int64_t t = 0; t < tokens; ++t) pass.logits_rows.push_back(pass.rows + t);
      } else if (logits && logits_rows == Rows::kLast && finished) {
        pass.logits_rows.push_back(pass.rows + tokens - 1);
      }
      pass.needed.resize(pass.logits_rows.size(), w.needed);
      pass.rows += tokens;
      if (finished) {
        ++item;
        done = 0;
      }
    }
    pass.logits = logits;
    pass.hidden = hidden;
    pass.head_mask = head_mask;
    pass.scans_head = head_scan_.prepare(pass.needed);
    reserve(pass.rows, longest);
    // Waking and awaiting the others costs tens of microseconds; small work is done sooner alone.
    const int members = pass.rows * weights_per_row_ < kAloneWeights ? 1 : pool_.size();
    pool_.run(members, [&](int member) { run_pass(pass, member); });
    if (logits) logits += static_cast<int64_t>(pass.logits_rows.size()) * model_.shape.vocab_size;
    if (hidden) hidden += pass.rows * model_.shape.n_embd;
  }
  for (const Work& w : work) w.cache->advance(w.tokens);
}

void Forward::run_pass(const Pass& pass, int member) {
  const ModelShape& shape = model_.shape;
  const int64_t rows = pass.rows;
  float* hidden = hidden_.data();

  embed(pass, member);
  pool_.barrier();
  for (int64_t layer = 0; layer < shape.n_layer; ++layer) {
    const Block& block = model_.h[layer];
    if (pass.captures_hidden_states) capture_hidden(pass, layer, member);

    Activations x = normalize(pass, block.ln_1, member);
    products_.multiply(qkv_.data(), qkv_stride_, x, block.attn_c_attn, Activation::kNone,
                       /*add_to_out=*/false,
                       /*round_out=*/false, member);
    attend(pass, layer, member);
    pool_.barrier();
    x = {(bfloat16_ ? normed_ : attended_).data(), stride_, rows, pass.phase};
    products_.multiply(hidden, stride_, x, block.attn_c_proj, Activation::kNone, /*add_to_out=*/true,
                       /*round_out=*/false, member);

    x = normalize(pass, block.ln_2, member);
    products_.multiply(inner_.data(), inner_stride_, x, block.mlp_c_fc, model_.activation,
                       /*add_to_out=*/false, /*round_out=*/bfloat16_ != nullptr, member);
    x = {inner_.data(), inner_stride_, rows, pass.phase};
    products_.multiply(hidden, stride_, x, block.mlp_c_proj, Activation::kNone, /*add_to_out=*/true,
                       /*round_out=*/false, member);
  }
  head(pass, member);
}

void Forward::embed(const Pass& pass, int member) {
  const int64_t C = model_.shape.n_embd;
  float* buffer = widened_[member].data();
  for (const Span& span : pass.spans) {
    const Range range = share(span.tokens, 1, member, pool_.members());
    for (int64_t t = range.begin; t < range.end; ++t) {
      const float* token = buffer;
      if (model_.wte.dtype == Dtype::kInt8) {
        widen_int8_output(buffer, int8_matrix(model_.wte, C, model_.shape.vocab_size), span.token_ids()[t]);
      } else {
        token = as_floats(kernels_, model_.wte, span.token_ids()[t] * C, C, buffer);
      }
      const float* position = as_floats(kernels_, model_.wpe, (span.past + t) * C, C, buffer + C);
      float* out = hidden_.data() + (span.row + t) * stride_;
      for (int64_t c = 0; c < C; ++c) out[c] = token[c] + position[c];
    }
  }
}

// Layer norm of one row of the residual stream, to row out_row of what a product reads.
void Forward::norm_row(void* out, int64_t row, int64_t out_row, const float* weight, const float* bias,
                       int member) {
  const int64_t C = model_.shape.n_embd;
  const float* x = hidden_.data() + row * stride_;
  float* y = bfloat16_ ? scratch_[member].data() : static_cast<float*>(out) + out_row * stride_;
  kernels_.layer_norm(y, x, weight, bias, model_.layer_norm_epsilon, C);
  if (bfloat16_) round_row(static_cast<BFloat16*>(out) + out_row * stride_, y);
}

// A row of C channels for a product in bfloat16, which wants a zero behind an odd number.
void Forward::round_row(BFloat16* out, const float* x) const {
  const int64_t C = model_.shape.n_embd;
  bfloat16_->round(out, x, C);
  if (C % 2) out[C] = {0};
}

// Layer norm of the residual stream; where it shares the work it ends with a barrier.
Activations Forward::normalize(const Pass& pass, const Norm& norm, int member) {
  const int64_t rows = pass.rows;
  const bool alone = rows <= kPrivateRows;
  float* out = (alone ? private_normed_[member] : normed_).data();
  const Range range = alone ? Range{0, rows} : share(rows, 1, member, pool_.members());
  const int64_t C = model_.shape.n_embd;
  float* buffer = widened_[member].data();
  const float* weight = as_floats(kernels_, norm.weight, 0, C, buffer);
  const float* bias = as_floats(kernels_, norm.bias, 0, C, buffer + C);
  for (int64_t b = range.begin; b < range.end; ++b) norm_row(out, b, b, weight, bias, member);
  if (!alone) pool_.barrier();
  return {out, stride_, rows, pass.phase};
}

// Each member takes every so-many-th (sequence, head): stores the new keys and values, then attends.
void Forward::attend(const Pass& pass, int64_t layer, int member) {
  const ModelShape& shape = model_.shape;
  const int64_t C = shape.n_embd, D = shape.head_size();
  float scale = model_.scale_attn_weights ? 1.0f / std::sqrt(static_cast<float>(D)) : 1.0f;
  if (model_.scale_attn_by_inverse_layer_idx) scale /= static_cast<float>(layer + 1);

  const AttentionKernels& kernels = kernels_.attending(model_.kv_format);
  const int64_t tasks = static_cast<int64_t>(pass.spans.size()) * shape.n_head;
  for (int64_t task = member; task < tasks; task += pool_.members()) {
    const Span& span = pass.spans[task / shape.n_head];
    const int64_t head = task % shape.n_head;
    const float* q = qkv_.data() + span.row * qkv_stride_ + head * D;
    void* keys = span.work->cache->keys(layer, head);
    void* values = span.work->cache->values(layer, head);
    kernels.append(keys, values, q + C, q + 2 * C, qkv_stride_, span.tokens, span.past, D);
    float* out = attended_.data() + span.row * stride_ + head * D;
    float* probabilities = span.work->attentions ? span.attentions(layer * shape.n_head + head) : nullptr;
    kernels.attention(out, stride_, q, qkv_stride_, keys, values, span.tokens, span.past, D, scale,
                      probabilities, span.length(), scratch_[member].data());
    if (pass.head_mask) {
      const float factor = pass.head_mask[layer * shape.n_head + head];
      for (int64_t t = 0; t < span.tokens; ++t) multiply_by(out + t * stride_, D, factor);
      if (probabilities) multiply_by(probabilities, span.tokens * span.length(), factor);
    }
    if (bfloat16_) {
      auto* rounded = reinterpret_cast<BFloat16*>(normed_.data()) + span.row * stride_ + head * D;
      const bool ends_odd_row = head + 1 == shape.n_head && C % 2;
      for (int64_t t = 0; t < span.tokens; ++t) {
        bfloat16_->round(rounded + t * stride_, out + t * stride_, D);
        if (ends_odd_row) rounded[t * stride_ + D] = {0};
      }
    }
  }
}

// The residual stream as it enters a block. Nobody writes it before the block's first barrier.
void Forward::capture_hidden(const Pass& pass, int64_t layer, int member) {
  const int64_t C = model_.shape.n_embd;
  for (const Span& span : pass.spans) {
    if (!span.work->hidden_states) continue;
    const Range range = share(span.tokens, 1, member, pool_.members());
    for (int64_t t = range.begin; t < range.end; ++t) {
      std::copy_n(hidden_.data() + (span.row + t) * stride_, C, span.hidden_states(layer, C) + t * C);
    }
  }
}

// ln_f, then the logits of the rows that were asked for.
void Forward::head(const Pass& pass, int member) {
  const ModelShape& shape = model_.shape;
  const int64_t C = shape.n_embd;
  const int64_t wanted = static_cast<int64_t>(pass.logits_rows.size());
  float* buffer = widened_[member].data();
  const float* weight = as_floats(kernels_, model_.ln_f.weight, 0, C, buffer);
  const float* bias = as_floats(kernels_, model_.ln_f.bias, 0, C, buffer + C);
  const auto final_norm = [&](float* out, int64_t row) {
    kernels_.layer_norm(out, hidden_.data() + row * stride_, weight, bias, model_.layer_norm_epsilon, C);
  };
  if (pass.hidden) {
    const Range range = share(pass.rows, 1, member, pool_.members());
    for (int64_t b = range.begin; b < range.end; ++b) final_norm(pass.hidden + b * C, b);
  }
  if (pass.captures_hidden_states) {
    for (const Span& span : pass.spans) {
      if (!span.work->hidden_states) continue;
      const Range range = share(span.tokens, 1, member, pool_.members());
      float* out = span.hidden_states(shape.n_layer, C);
      for (int64_t t = range.begin; t < range.end; ++t) final_norm(out + t * C, span.row + t);
    }
  }
  if (wanted == 0) return;
  const bool alone = wanted <= kPrivateRows;
  float* x = (alone ? private_normed_[member] : normed_).data();
  const Range range = alone ? Range{0, wanted} : share(wanted, 1, member, pool_.members());
  for (int64_t i = range.begin; i < range.end; ++i) norm_row(x, pass.logits_rows[i], i, weight, bias, member);
  if (!alone) pool_.barrier();
  if (pass.scans_head) {
    head_scan_.project(pass.logits, x, stride_, pass.needed, member);
  } else {
    products_.project(pass.logits, {x, stride_, wanted, pass.phase}, member);
  }
}

void Forward::project(const float* states, int64_t rows, float* logits, Phase phase) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const int64_t C = model_.shape.n_embd, V = model_.shape.vocab_size;
  for (int64_t done = 0; done < rows; done += kPassRows) {
    const int64_t count = std::min(kPassRows, rows - done);
    reserve(count, /*longest=*/1);
    const void* x = states + done * C;
    int64_t x_stride = C;
    if (bfloat16_) {
      auto* rounded = reinterpret_cast<BFloat16*>(normed_.data());
      for (int64_t b = 0; b < count; ++b) round_row(rounded + b * stride_, states + (done + b) * C);
      x = rounded;
      x_stride = stride_;
    }
    pool_.run(pool_.size(),
              [&](int member) { products_.project(logits + done * V, {x, x_stride, count, phase}, member); });
  }
}

bool Forward::head_upper_bounds(const float* states, int64_t rows, float* upper) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return head_scan_.upper_bounds(states, rows, upper);
}

HeadScan::Counts Forward::head_scan_counts() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return head_scan_.counts();
}

}  // namespace gpt2kit
