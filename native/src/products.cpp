#include "products.h"

#include <algorithm>

namespace gpt2kit {
namespace {

// Up to this many rows the weights are the traffic and are streamed; above it, packing panels of them pays.
constexpr int64_t kStreamRows = 24;

// Room for rows of activations in a buffer of int8_rows_floats().
Int8Rows int8_rows_in(float* buffer, int64_t rows, int64_t in_features) {
  const int64_t stride = int8_rows_stride(in_features), groups = int8_groups(in_features);
  float* scales = buffer + rows * stride / 2;
  return {reinterpret_cast<int16_t*>(buffer), stride, scales,
          reinterpret_cast<int32_t*>(scales + rows * groups)};
}

ByteRows byte_rows_in(float* buffer, int64_t rows, int64_t in_features) {
  const int64_t stride = byte_rows_stride(in_features), groups = int8_groups(in_features);
  float* scales = buffer + rows * stride / 4;
  return {reinterpret_cast<int8_t*>(buffer), stride, scales,
          reinterpret_cast<int32_t*>(scales + rows * groups)};
}

bool has_int8(const Model& model) {
  const auto is_int8 = [](const Tensor& tensor) { return tensor.dtype == Dtype::kInt8; };
  return is_int8(model.lm_head) || std::any_of(model.h.begin(), model.h.end(), [&](const Block& block) {
           return is_int8(block.attn_c_attn.weight) || is_int8(block.attn_c_proj.weight) ||
                  is_int8(block.mlp_c_fc.weight) || is_int8(block.mlp_c_proj.weight);
         });
}

int64_t widest(const ModelShape& shape) { return std::max(3 * shape.n_embd, shape.n_inner); }

}  // namespace

Products::Products(const Model& model, const Kernels& kernels, const BFloat16Kernels* bfloat16,
                   Precisions precisions, ThreadPool& pool)
    : model_(model),
      kernels_(kernels),
      bfloat16_(bfloat16),
      precisions_(precisions),
      pool_(pool),
      uses_int8_(has_int8(model)),
      private_int8_rows_(static_cast<size_t>(pool.size())),
      biases_(static_cast<size_t>(pool.size())),
      scratch_(static_cast<size_t>(pool.size())) {}

void Products::reserve(int64_t rows) {
  const ModelShape& shape = model_.shape;
  const int64_t most_in = std::max(shape.n_embd, shape.n_inner);
  sums_.reserve(2 * std::min(rows, kStreamRows) * widest(shape));
  if (uses_int8_) int8_rows_.reserve(int8_rows_floats(rows, most_in));
  for (int member = 0; member < pool_.size(); ++member) {
    if (uses_int8_) private_int8_rows_[member].reserve(int8_rows_floats(kPrivateRows, most_in));
    biases_[member].reserve(widest(shape));
    scratch_[member].reserve(kLinearScratchFloats);
  }
}

void Products::multiply(void* out, int64_t out_stride, const Activations& x, const Linear& linear,
                        Activation activation, bool add_to_out, bool round_out, int member) {
  const float* bias = as_floats(kernels_, linear.bias, 0, linear.out_features, biases_[member].data());
  const Epilogue epilogue{bias, activation, add_to_out, round_out};
  if (linear.weight.dtype == Dtype::kInt8) {
    multiply_int8(static_cast<float*>(out), out_stride, x,
                  int8_matrix(linear.weight, linear.in_features, linear.out_features), epilogue, member);
  } else if (x.rows > kStreamRows) {
    multiply_whole(out, out_stride, x, linear, epilogue, member);
  } else {
    multiply_in_halves(out, out_stride, x, linear, epilogue, member);
  }
  pool_.barrier();
}

void Products::multiply_whole(void* out, int64_t out_stride, const Activations& x, const Linear& linear,
                              const Epilogue& epilogue, int member) {
  const int64_t O = linear.out_features;
  const Range columns = share(O, 32, member, pool_.members());
  float* scratch = scratch_[member].data();
  if (bfloat16_) {
    bfloat16_->linear(out, out_stride, static_cast<const BFloat16*>(x.values), x.stride, linear.weight.data,
                      O, x.rows, linear.in_features, columns.begin, columns.end, epilogue, scratch);
  } else {
    kernels_.reading(linear.weight.dtype)
        .linear(static_cast<float*>(out), out_stride, static_cast<const float*>(x.values), x.stride,
                linear.weight.data, O, x.rows, linear.in_features, columns.begin, columns.end, epilogue,
                scratch);
  }
}

// Each half of the features, cut into groups of columns, so that two members read whole rows.
void Products::multiply_in_halves(void* out, int64_t out_stride, const Activations& x, const Linear& linear,
                                  const Epilogue& epilogue, int member) {
  const int64_t I = linear.in_features, O = linear.out_features;
  const int members = pool_.members();
  const int groups = members % 2 ? members : members / 2;
  float* halves[2] = {sums_.data(), sums_.data() + x.rows * O};
  const int64_t bounds[3] = {0, bfloat16_ ? half_of_pairs(I) : half(I), I};
  const Range tasks = share(2 * groups, 1, member, members);
  for (int64_t task = tasks.begin; task < tasks.end; ++task) {
    const int64_t which = task / groups;
    const Range group = share(O, 32, static_cast<int>(task % groups), groups);
    if (bfloat16_) {
      bfloat16_->partial_sums(halves[which], O, static_cast<const BFloat16*>(x.values), x.stride,
                              linear.weight.data, O, x.rows, bounds[which], bounds[which + 1], group.begin,
                              group.end);
    } else {
      kernels_.reading(linear.weight.dtype)
          .partial_sums(halves[which], O, static_cast<const float*>(x.values), x.stride, linear.weight.data,
                        O, x.rows, bounds[which], bounds[which + 1], group.begin, group.end);
    }
  }
  pool_.barrier();
  const Range columns = share(O, 32, member, members);
  if (bfloat16_) {
    bfloat16_->finish_sums(out, out_stride, halves[0], halves[1], O, x.rows, columns.begin, columns.end,
                           epilogue);
  } else {
    kernels_.finish_sums(static_cast<float*>(out), out_stride, halves[0], halves[1], O, x.rows, columns.begin,
                         columns.end, epilogue);
  }
}

void Products::multiply_int8(float* out, int64_t out_stride, const Activations& x, const Int8Matrix& w,
                             const Epilogue& epilogue, int member) {
  const bool alone = x.rows <= kPrivateRows;
  float* buffer = (alone ? private_int8_rows_[member] : int8_rows_).data();
  const float* values = static_cast<const float*>(x.values);
  const Range range = alone ? Range{0, x.rows} : share(x.rows, 1, member, pool_.members());
  const auto run = [&](const auto& integers, auto quantize, auto multiply, int64_t panels_together) {
    quantize(integers, values, x.stride, w.in_features, range.begin, range.end);
    if (!alone) pool_.barrier();
    const Range panels = share(int8_panels(w.out_features), panels_together, member, pool_.members());
    multiply(out, out_stride, integers, w, x.rows, panels.begin, panels.end, epilogue);
  };
  if (precisions_.in(x.phase) == Precision::kInt8) {
    run(byte_rows_in(buffer, x.rows, w.in_features), kernels_.int8->quantize_bytes,
        kernels_.int8->multiply_bytes, 3);
  } else {
    run(int8_rows_in(buffer, x.rows, w.in_features), kernels_.int8->quantize, kernels_.int8->multiply, 2);
  }
}

void Products::project(float* logits, const Activations& x, int member) {
  const int64_t C = model_.shape.n_embd, V = model_.shape.vocab_size;
  const Tensor& head = model_.lm_head;
  if (head.dtype == Dtype::kInt8) {
    const Epilogue plain{nullptr, Activation::kNone, /*add_to_out=*/false, /*round_out=*/false};
    multiply_int8(logits, V, x, int8_matrix(head, C, V), plain, member);
    return;
  }
  const Range words = share(V, 6, member, pool_.members());
  if (bfloat16_) {
    bfloat16_->project(logits, V, static_cast<const BFloat16*>(x.values), x.stride, head.data, x.rows, C,
                       words.begin, words.end);
  } else {
    kernels_.reading(head.dtype)
        .project(logits, V, static_cast<const float*>(x.values), x.stride, head.data, x.rows, C, words.begin,
                 words.end);
  }
}

}  // namespace gpt2kit
