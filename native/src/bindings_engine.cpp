// gpt2kit._native: NativeModel and KvSequence. Everything that comes from Python is checked here.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>
#include <set>
#include <stdexcept>
#include <string>

#include "bindings.h"
#include "forward.h"
#include "generate.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace gpt2kit {
namespace {

using FloatArray = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using AnyArray = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using TokenIds = std::vector<int64_t>;
using Shape = std::vector<int64_t>;

// Memory that becomes a numpy array, which then owns it. Zero at first.
class NewArray {
 public:
  NewArray() = default;
  explicit NewArray(Shape shape) : shape_(shape.begin(), shape.end()) {
    size_t size = 1;
    for (const size_t n : shape_) size *= n;
    data_.reset(static_cast<float*>(std::calloc(std::max<size_t>(size, 1), sizeof(float))));
    if (!data_) throw std::bad_alloc();
  }

  float* data() const { return data_.get(); }

  nb::object to_numpy() {
    float* p = data_.release();
    const nb::capsule owner(p, [](void* q) noexcept { std::free(q); });
    return nb::cast(nb::ndarray<nb::numpy, float>(p, shape_.size(), shape_.data(), owner));
  }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::vector<size_t> shape_;
  std::unique_ptr<float[], Free> data_;
};

std::optional<Dtype> dtype_of(const AnyArray& array) {
  if (array.dtype() == nb::dtype<float>()) return Dtype::kFloat32;
  if (array.dtype() == nb::dlpack::dtype{static_cast<uint8_t>(nb::dlpack::dtype_code::Float), 16, 1})
    return Dtype::kFloat16;
  if (array.dtype() == nb::dtype<uint16_t>()) return Dtype::kBFloat16;  // numpy has no bfloat16: its bits
  return std::nullopt;
}

template <typename Array>
std::string shape_text(const Array& array) {
  std::string text = "(";
  for (size_t i = 0; i < array.ndim(); ++i) text += (i ? ", " : "") + std::to_string(array.shape(i));
  return text + ")";
}

Activation activation_from(const std::string& name) {
  static const std::pair<const char*, Activation> kNames[] = {
      {"gelu_new", Activation::kGeluTanh},
      {"gelu_pytorch_tanh", Activation::kGeluTanh},
      {"gelu_fast", Activation::kGeluTanh},
      {"gelu_accurate", Activation::kGeluTanh},
      {"gelu", Activation::kGeluErf},
      {"gelu_python", Activation::kGeluErf},
      {"quick_gelu", Activation::kGeluQuick},
      {"relu", Activation::kRelu},
      {"silu", Activation::kSilu},
      {"swish", Activation::kSilu},
      {"tanh", Activation::kTanh},
      {"sigmoid", Activation::kSigmoid},
      {"linear", Activation::kNone},
  };
  std::string known;
  for (const auto& [known_name, activation] : kNames) {
    if (name == known_name) return activation;
    known += (known.empty() ? "" : ", ") + std::string(known_name);
  }
  throw nb::value_error(("activation_function '" + name + "' has no native kernel; it has " + known).c_str());
}

KvFormat kv_format_from(const std::string& name) {
  if (name == "float32") return KvFormat::kFloat32;
  if (name == "bfloat16") return KvFormat::kBFloat16;
  if (name == "int8") return KvFormat::kInt8;
  throw nb::value_error(
      ("kv_cache_dtype is '" + name + "'; it must be 'float32', 'bfloat16' or 'int8'").c_str());
}

class KvSequence {
 public:
  KvSequence(std::shared_ptr<Forward> forward, std::shared_ptr<KvCache> cache)
      : forward_(std::move(forward)), cache_(std::move(cache)) {}

  int64_t length() const { return cache_ ? cache_->length() : 0; }
  bool is_free() const { return !cache_; }
  void free() { cache_.reset(); }

  KvSequence fork() const {
    const std::shared_ptr<KvCache> cache = checked("fork");
    const nb::gil_scoped_release release;
    return {forward_, std::make_shared<KvCache>(*cache)};
  }

  void truncate(int64_t length) {
    const std::shared_ptr<KvCache> cache = checked("truncate");
    if (length < 0 || length > cache->length()) {
      throw nb::value_error(("length is " + std::to_string(length) + "; the sequence has " +
                             std::to_string(cache->length()) + " tokens, so it must be from 0 to that")
                                .c_str());
    }
    cache->truncate(length);
  }

  // What the keys and values take.
  int64_t nbytes() const { return cache_ ? cache_->bytes() : 0; }

  // (keys, values), each (n_layer, n_head, length, D): copies, in float32.
  nb::tuple keys_values() const {
    const std::shared_ptr<KvCache> cache = checked("read");
    const ModelShape& model = forward_->model().shape;
    const Shape shape{model.n_layer, model.n_head, cache->length(), model.head_size()};
    NewArray keys(shape), values(shape);
    {
      const nb::gil_scoped_release release;
      cache->copy_out(forward_->kernels().attending(cache->format()), keys.data(), values.data());
    }
    return nb::make_tuple(keys.to_numpy(), values.to_numpy());
  }

  std::shared_ptr<KvCache> checked(const char* action) const {
    if (!cache_)
      throw nb::value_error((std::string("cannot ") + action + " a sequence after free()").c_str());
    return cache_;
  }
  const Forward* forward() const { return forward_.get(); }

 private:
  std::shared_ptr<Forward> forward_;
  std::shared_ptr<KvCache> cache_;
};

Phase phase_from(const std::string& name) {
  if (name == "prefill") return Phase::kPrefill;
  if (name == "decode") return Phase::kDecode;
  throw nb::value_error(("phase is '" + name + "'; it must be 'prefill' or 'decode'").c_str());
}

Precision precision_from(const std::string& name) {
  if (name == "int16") return Precision::kInt16;
  if (name == "int8") return Precision::kInt8;
  throw nb::value_error(("precision is '" + name + "'; it must be 'int16' or 'int8'").c_str());
}

class NativeModel {
 public:
  NativeModel(int64_t n_layer, int64_t n_head, int64_t n_embd, int64_t n_inner, int64_t n_positions,
              int64_t vocab_size, const std::string& activation_function, float layer_norm_epsilon,
              bool scale_attn_weights, bool scale_attn_by_inverse_layer_idx, const nb::dict& weights,
              int threads, std::optional<std::string> isa, const std::string& compute,
              const std::string& prefill_precision, const std::string& decode_precision,
              const std::string& kv_cache_dtype, int64_t head_scan_after, bool head_is_mapped) {
    constexpr int64_t kLimit = int64_t{1} << 24;
    const auto check = [](const char* name, int64_t value, int64_t limit) {
      if (value < 1 || value > limit) {
        throw nb::value_error((std::string(name) + " is " + std::to_string(value) +
                               "; it must be from 1 to " + std::to_string(limit))
                                  .c_str());
      }
    };
    check("n_layer", n_layer, 4096);
    check("n_head", n_head, 65536);
    check("n_embd", n_embd, kLimit);
    check("n_inner", n_inner, kLimit);
    check("n_positions", n_positions, kLimit);
    check("vocab_size", vocab_size, kLimit);
    check("threads", threads, 1024);
    if (n_embd % n_head) {
      throw nb::value_error(
          ("n_embd " + std::to_string(n_embd) + " is not a multiple of n_head " + std::to_string(n_head))
              .c_str());
    }

    Model model;
    model.shape = {n_layer, n_head, n_embd, n_inner, n_positions, vocab_size};
    model.activation = activation_from(activation_function);
    model.layer_norm_epsilon = layer_norm_epsilon;
    model.scale_attn_weights = scale_attn_weights;
    model.scale_attn_by_inverse_layer_idx = scale_attn_by_inverse_layer_idx;
    model.kv_format = kv_format_from(kv_cache_dtype);

    const auto tensor = [&](const std::string& name, std::initializer_list<int64_t> shape) {
      if (!weights.contains(name.c_str()))
        throw nb::value_error(("weights have no tensor '" + name + "'").c_str());
      AnyArray array;
      std::optional<Dtype> dtype;
      if (nb::try_cast<AnyArray>(weights[name.c_str()], array, /*convert=*/false)) dtype = dtype_of(array);
      if (!dtype) {
        throw nb::type_error(
            ("tensor '" + name + "' must be a C-contiguous array of float32, float16 or bfloat16 on the CPU")
                .c_str());
      }
      bool fits = array.ndim() == shape.size();
      std::string wanted;
      size_t i = 0;
      for (const int64_t n : shape) {
        wanted += (i ? ", " : "") + std::to_string(n);
        if (fits && static_cast<int64_t>(array.shape(i)) != n) fits = false;
        ++i;
      }
      if (!fits) {
        throw nb::value_error(("tensor '" + name + "' has shape " + shape_text(array) +
                               "; the configuration needs (" + wanted + ")")
                                  .c_str());
      }
      keep_alive_.push_back(array);
      return Tensor{array.data(), *dtype};
    };
    // What products read.
    const auto factor = [&](const std::string& name, const Tensor& found) {
      if (compute == "bfloat16" && found.dtype != Dtype::kBFloat16) {
        throw nb::value_error(("compute is 'bfloat16', but tensor '" + name +
                               "' is not; load the weights with dtype='bfloat16'")
                                  .c_str());
      }
      return found;
    };
    // A matrix, (in, out) where it is in 8 bits: uint8 codes, with the scales under another name.
    const auto packed = [&](const std::string& name, int64_t in, int64_t out) -> std::optional<Tensor> {
      const std::string scales_name = name + ".scales";
      if (!weights.contains(scales_name.c_str())) return std::nullopt;
      const auto part = [&](const std::string& part_name, nb::dlpack::dtype dtype, size_t count) {
        AnyArray array;
        const bool is_array = weights.contains(part_name.c_str()) &&
                              nb::try_cast<AnyArray>(weights[part_name.c_str()], array, /*convert=*/false);
        if (!is_array || array.dtype() != dtype || array.size() != count) {
          throw nb::value_error(("tensor '" + part_name + "' is not a C-contiguous array of " +
                                 std::to_string(count) + (dtype.bits == 8 ? " uint8" : " uint16"))
                                    .c_str());
        }
        keep_alive_.push_back(array);
        return array.data();
      };
      const size_t lines = static_cast<size_t>(int8_panels(out) * int8_groups(in));
      const void* codes = part(name, nb::dtype<uint8_t>(), lines * kInt8Group * kInt8Panel);
      const void* scales = part(scales_name, nb::dtype<uint16_t>(), lines * kInt8Panel);
      return Tensor{codes, Dtype::kInt8, static_cast<const BFloat16*>(scales)};
    };
    const auto norm = [&](const std::string& name) {
      return Norm{tensor(name + ".weight", {n_embd}), tensor(name + ".bias", {n_embd})};
    };
    const auto linear = [&](const std::string& name, int64_t in, int64_t out) {
      const std::string weight = name + ".weight";
      const auto in_8_bits = packed(weight, in, out);
      return Linear{factor(weight, in_8_bits ? *in_8_bits : tensor(weight, {in, out})),
                    tensor(name + ".bias", {out}), in, out};
    };
    const auto words = [&](const std::string& name) {
      const auto in_8_bits = packed(name, n_embd, vocab_size);
      return in_8_bits ? *in_8_bits : tensor(name, {vocab_size, n_embd});
    };
    model.wte = words("wte.weight");
    model.wpe = tensor("wpe.weight", {n_positions, n_embd});
    for (int64_t i = 0; i < n_layer; ++i) {
      const std::string h = "h." + std::to_string(i) + ".";
      model.h.push_back({norm(h + "ln_1"), linear(h + "attn.c_attn", n_embd, 3 * n_embd),
                         linear(h + "attn.c_proj", n_embd, n_embd), norm(h + "ln_2"),
                         linear(h + "mlp.c_fc", n_embd, n_inner), linear(h + "mlp.c_proj", n_inner, n_embd)});
    }
    model.ln_f = norm("ln_f");
    const std::string head = weights.contains("lm_head.weight") ? "lm_head.weight" : "wte.weight";
    model.lm_head = factor(head, head == "wte.weight" ? model.wte : words(head));

    const Kernels& kernels = select_kernels(isa ? isa->c_str() : std::getenv("GPT2KIT_ISA"));
    const BFloat16Kernels* bfloat16 = nullptr;
    if (compute == "bfloat16") {
      bfloat16 = &select_bfloat16_kernels(kernels);
    } else if (compute != "float32") {
      throw nb::value_error(("compute is '" + compute + "'; it must be 'float32' or 'bfloat16'").c_str());
    }
    const Precisions precisions{precision_from(prefill_precision), precision_from(decode_precision)};
    forward_ = std::make_shared<Forward>(std::move(model), threads, kernels, bfloat16, precisions,
                                         HeadScanOptions{head_scan_after, head_is_mapped});
  }

  KvSequence new_sequence() const { return {forward_, new_cache()}; }

  // A sequence that holds copies of keys and values, each (n_layer, n_head, S, D).
  KvSequence new_sequence_from(const FloatArray& keys, const FloatArray& values) const {
    const ModelShape& shape = forward_->model().shape;
    const auto check = [&](const char* name, const FloatArray& array) {
      if (array.ndim() == 4 && static_cast<int64_t>(array.shape(0)) == shape.n_layer &&
          static_cast<int64_t>(array.shape(1)) == shape.n_head &&
          static_cast<int64_t>(array.shape(2)) <= shape.n_positions &&
          static_cast<int64_t>(array.shape(3)) == shape.head_size())
        return;
      throw nb::value_error((std::string(name) + " have shape " + shape_text(array) + "; it must be (" +
                             std::to_string(shape.n_layer) + ", " + std::to_string(shape.n_head) + ", S, " +
                             std::to_string(shape.head_size()) + "), S at most n_positions, " +
                             std::to_string(shape.n_positions))
                                .c_str());
    };
    check("keys", keys);
    check("values", values);
    if (keys.shape(2) != values.shape(2)) {
      throw nb::value_error(("keys have shape " + shape_text(keys) + ", values " + shape_text(values) +
                             "; both must have the same")
                                .c_str());
    }
    auto cache = new_cache();
    {
      const nb::gil_scoped_release release;
      cache->copy_in(forward_->kernels().attending(cache->format()), keys.data(), values.data(),
                     static_cast<int64_t>(keys.shape(2)));
    }
    return {forward_, std::move(cache)};
  }

  const char* isa() const { return forward_->kernels().name; }
  int threads() const { return forward_->threads(); }

  // What the scan of the head has done: rows, logits, full_shares, bytes; see HeadScan::Counts.
  nb::dict head_scan_counts() const {
    const HeadScan::Counts counts = forward_->head_scan_counts();
    nb::dict found;
    found["rows"] = counts.rows;
    found["logits"] = counts.logits;
    found["full_shares"] = counts.full_shares;
    found["bytes"] = counts.bytes;
    return found;
  }

  // (logits, hidden): rows of all the work, one after another. (hidden_states, attentions): one array for
  // each sequence. None for what was not asked.
  nb::tuple forward(const nb::list& sequences, const std::vector<TokenIds>& token_ids,
                    const std::string& logits, bool hidden, bool hidden_states, bool attentions,
                    const std::optional<FloatArray>& head_mask,
                    const std::vector<std::string>& phases) const {
    const ModelShape& shape = forward_->model().shape;
    const Rows rows = logits == "last"   ? Rows::kLast
                      : logits == "all"  ? Rows::kAll
                      : logits == "none" ? Rows::kNone
                                         : throw nb::value_error("logits must be 'last', 'all' or 'none'");
    if (nb::len(sequences) != token_ids.size() || phases.size() != token_ids.size())
      throw nb::value_error("sequences, token_ids and phases differ in length");
    if (head_mask && (head_mask->ndim() != 2 || static_cast<int64_t>(head_mask->shape(0)) != shape.n_layer ||
                      static_cast<int64_t>(head_mask->shape(1)) != shape.n_head)) {
      throw nb::value_error(("head_mask has shape " + shape_text(*head_mask) + "; it must be (" +
                             std::to_string(shape.n_layer) + ", " + std::to_string(shape.n_head) + ")")
                                .c_str());
    }

    std::vector<Work> work;
    std::vector<std::shared_ptr<KvCache>> caches;
    std::vector<std::vector<int32_t>> ids;
    std::set<const KvCache*> seen;
    int64_t total = 0;
    for (size_t i = 0; i < token_ids.size(); ++i) {
      const auto& sequence = nb::cast<const KvSequence&>(sequences[i]);
      if (sequence.forward() != forward_.get()) throw nb::value_error("a sequence belongs to another model");
      caches.push_back(sequence.checked("use"));
      if (!seen.insert(caches.back().get()).second)
        throw nb::value_error("a sequence occurs twice in one forward");
      ids.push_back(checked_ids(token_ids[i]));
      const int64_t length = caches.back()->length() + static_cast<int64_t>(ids.back().size());
      if (length > shape.n_positions) {
        throw nb::value_error(("the sequence would have " + std::to_string(length) +
                               " tokens; n_positions is " + std::to_string(shape.n_positions))
                                  .c_str());
      }
      work.push_back({caches.back().get(), ids.back().data(), static_cast<int64_t>(ids.back().size()),
                      phase_from(phases[i])});
      total += static_cast<int64_t>(ids.back().size());
    }

    const int64_t logits_rows = rows == Rows::kAll    ? total
                                : rows == Rows::kLast ? static_cast<int64_t>(work.size())
                                                      : 0;
    NewArray all_logits, all_hidden;
    std::vector<NewArray> all_hidden_states, all_attentions;
    if (rows != Rows::kNone) all_logits = NewArray({logits_rows, shape.vocab_size});
    if (hidden) all_hidden = NewArray({total, shape.n_embd});
    for (Work& item : work) {
      if (hidden_states) {
        all_hidden_states.emplace_back(Shape{shape.n_layer + 1, item.tokens, shape.n_embd});
        item.hidden_states = all_hidden_states.back().data();
      }
      if (attentions) {
        const int64_t length = item.cache->length() + item.tokens;
        all_attentions.emplace_back(Shape{shape.n_layer, shape.n_head, item.tokens, length});
        item.attentions = all_attentions.back().data();
      }
    }
    {
      const nb::gil_scoped_release release;
      forward_->run(work, rows, all_logits.data(), all_hidden.data(),
                    head_mask ? head_mask->data() : nullptr);
    }
    return nb::make_tuple(rows == Rows::kNone ? nb::none() : all_logits.to_numpy(),
                          hidden ? all_hidden.to_numpy() : nb::none(),
                          hidden_states ? to_list(all_hidden_states) : nb::none(),
                          attentions ? to_list(all_attentions) : nb::none());
  }

  nb::object project(const FloatArray& states, const std::string& phase) const {
    NewArray logits = logits_of(states);
    {
      const nb::gil_scoped_release release;
      forward_->project(states.data(), static_cast<int64_t>(states.shape(0)), logits.data(),
                        phase_from(phase));
    }
    return logits.to_numpy();
  }

  // None where the head is not scanned.
  nb::object head_upper_bounds(const FloatArray& states) const {
    NewArray upper = logits_of(states);
    bool is_known;
    {
      const nb::gil_scoped_release release;
      is_known =
          forward_->head_upper_bounds(states.data(), static_cast<int64_t>(states.shape(0)), upper.data());
    }
    return is_known ? upper.to_numpy() : nb::none();
  }

  // Returns (new ids, how many tokens were guessed, how many of those were right) for all rows, or the
  // largest score (a float) where no token could be chosen.
  nb::object generate(const std::vector<TokenIds>& prompts, const std::vector<int64_t>& max_new_tokens,
                      const std::vector<int64_t>& min_new_tokens, const std::vector<uint64_t>& seeds,
                      int64_t num_return_sequences, const TokenIds& eos_token_ids, bool do_sample,
                      double temperature, int64_t top_k, double top_p, double min_p, double typical_p,
                      double epsilon_cutoff, double eta_cutoff, double repetition_penalty,
                      int64_t no_repeat_ngram_size, const std::vector<TokenIds>& bad_words_ids,
                      int64_t num_assistant_tokens, int64_t max_matching_ngram_size,
                      const NativeModel* assistant, bool is_constant_schedule,
                      double assistant_confidence_threshold, const nb::object& clock, int64_t max_rows,
                      const nb::object& on_token) const {
    const ModelShape& shape = forward_->model().shape;
    const auto require = [](bool holds, const char* message) {
      if (!holds) throw nb::value_error(message);
    };
    require(max_new_tokens.size() == prompts.size() && min_new_tokens.size() == prompts.size() &&
                seeds.size() == prompts.size(),
            "max_new_tokens, min_new_tokens and seeds must have one entry for each prompt");
    require(num_return_sequences >= 1 && num_return_sequences <= 65536,
            "num_return_sequences must be from 1 to 65536");
    require(max_rows >= 1 && max_rows <= 65536, "max_rows must be from 1 to 65536");
    require(std::isfinite(temperature) && temperature > 0, "temperature must be a positive number");
    require(std::isfinite(repetition_penalty) && repetition_penalty > 0,
            "repetition_penalty must be a positive number");
    require(top_k >= 0, "top_k must not be negative");
    require(no_repeat_ngram_size >= 0, "no_repeat_ngram_size must not be negative");
    for (const double p : {top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff}) {
      require(p >= 0 && p <= 1, "top_p, min_p, typical_p, epsilon_cutoff and eta_cutoff must be from 0 to 1");
    }
    require(num_assistant_tokens >= 0, "num_assistant_tokens must not be negative");
    require(max_matching_ngram_size >= 1, "max_matching_ngram_size must be at least 1");
    require(assistant_confidence_threshold >= 0 && assistant_confidence_threshold <= 1,
            "assistant_confidence_threshold must be from 0 to 1");
    require(!assistant || assistant->forward_->model().shape.vocab_size == shape.vocab_size,
            "the assistant has another vocab_size than the model");

    GenerateOptions options;
    options.num_return_sequences = num_return_sequences;
    options.max_rows = max_rows;
    // A guess beyond what a sequence holds has no use.
    options.speculation.num_tokens = std::min(num_assistant_tokens, shape.n_positions);
    options.speculation.max_ngram = max_matching_ngram_size;
    options.speculation.draft = assistant ? assistant->forward_.get() : nullptr;
    options.speculation.min_probability = assistant_confidence_threshold;
    options.speculation.is_constant = is_constant_schedule;
    if (!clock.is_none()) {
      options.speculation.clock = [&clock] {
        const nb::gil_scoped_acquire acquire;
        return nb::cast<double>(clock());
      };
    }
    options.sampling.do_sample = do_sample;
    options.sampling.temperature = static_cast<float>(temperature);
    options.sampling.top_k = top_k;
    options.sampling.top_p = top_p;
    options.sampling.min_p = min_p;
    options.sampling.typical_p = typical_p;
    options.sampling.epsilon_cutoff = epsilon_cutoff;
    options.sampling.eta_cutoff = eta_cutoff;
    options.sampling.repetition_penalty = static_cast<float>(repetition_penalty);
    options.sampling.no_repeat_ngram_size = no_repeat_ngram_size;
    for (const int64_t id : eos_token_ids) {
      // An end token past the vocabulary can never be generated.
      if (id >= 0 && id < shape.vocab_size)
        options.sampling.eos_token_ids.push_back(static_cast<int32_t>(id));
    }
    for (const TokenIds& word : bad_words_ids) {
      require(!word.empty(), "bad_words_ids holds an empty word");
      options.sampling.bad_words_ids.push_back(checked_ids(word));
    }
    std::vector<Prompt> checked;
    for (size_t i = 0; i < prompts.size(); ++i) {
      require(max_new_tokens[i] >= 1, "max_new_tokens must be at least 1");
      std::vector<int32_t> ids = checked_ids(prompts[i]);
      checked.push_back({std::move(ids), max_new_tokens[i], min_new_tokens[i], seeds[i]});
    }

    OnToken callback;
    if (!on_token.is_none()) {
      callback = [&on_token](int64_t prompt, int64_t row, int32_t id) {
        const nb::gil_scoped_acquire acquire;
        const nb::object answer = on_token(prompt, row, id);
        const int truth = PyObject_IsTrue(answer.ptr());
        if (truth < 0) throw nb::python_error();
        return truth == 1;
      };
    }
    const auto check_signals = [] {
      const nb::gil_scoped_acquire acquire;
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
    };
    std::vector<NewTokens> rows;
    try {
      const nb::gil_scoped_release release;
      rows = gpt2kit::generate(*forward_, checked, options, callback, check_signals);
    } catch (const NoChoice& none) {
      return nb::float_(none.highest);
    }
    nb::list result;
    for (const NewTokens& row : rows) {
      result.append(nb::make_tuple(row.token_ids, row.num_guessed, row.num_right));
    }
    return result;
  }

 private:
  std::shared_ptr<KvCache> new_cache() const {
    return std::make_shared<KvCache>(forward_->model().shape, forward_->model().kv_format);
  }

  // Room for the logits of states, which must have the shape (rows, C).
  NewArray logits_of(const FloatArray& states) const {
    const ModelShape& shape = forward_->model().shape;
    if (states.ndim() != 2 || static_cast<int64_t>(states.shape(1)) != shape.n_embd) {
      throw nb::value_error(("states has shape " + shape_text(states) + "; it must be (rows, " +
                             std::to_string(shape.n_embd) + ")")
                                .c_str());
    }
    return NewArray({static_cast<int64_t>(states.shape(0)), shape.vocab_size});
  }

  std::vector<int32_t> checked_ids(const TokenIds& token_ids) const {
    const ModelShape& shape = forward_->model().shape;
    if (token_ids.empty()) throw nb::value_error("token_ids is empty; a forward needs at least one token");
    std::vector<int32_t> ids;
    ids.reserve(token_ids.size());
    for (const int64_t id : token_ids) {
      if (id < 0 || id >= shape.vocab_size) {
        throw nb::value_error(
            ("token id " + std::to_string(id) + " is not in [0, " + std::to_string(shape.vocab_size) + ")")
                .c_str());
      }
      ids.push_back(static_cast<int32_t>(id));
    }
    return ids;
  }

  static nb::object to_list(std::vector<NewArray>& arrays) {
    nb::list list;
    for (NewArray& array : arrays) list.append(array.to_numpy());
    return list;
  }

  std::vector<AnyArray> keep_alive_;  // declared first, so that it goes last
  std::shared_ptr<Forward> forward_;
};  // namespace

}  // namespace

void bind_engine(nb::module_& m) {
  nb::class_<KvSequence>(m, "KvSequence")
      .def_prop_ro("length", &KvSequence::length)
      .def_prop_ro("is_free", &KvSequence::is_free)
      .def_prop_ro("nbytes", &KvSequence::nbytes)
      .def("keys_values", &KvSequence::keys_values)
      .def("fork", &KvSequence::fork)
      .def("truncate", &KvSequence::truncate, "length"_a)
      .def("free", &KvSequence::free);

  nb::class_<NativeModel>(m, "NativeModel")
      .def(nb::init<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, const std::string&, float, bool,
                    bool, const nb::dict&, int, std::optional<std::string>, const std::string&,
                    const std::string&, const std::string&, const std::string&, int64_t, bool>(),
           "n_layer"_a, "n_head"_a, "n_embd"_a, "n_inner"_a, "n_positions"_a, "vocab_size"_a,
           "activation_function"_a, "layer_norm_epsilon"_a, "scale_attn_weights"_a,
           "scale_attn_by_inverse_layer_idx"_a, "weights"_a, "threads"_a, "isa"_a = nb::none(),
           "compute"_a = "float32", "prefill_precision"_a = "int16", "decode_precision"_a = "int16",
           "kv_cache_dtype"_a = "float32", "head_scan_after"_a = -1, "head_is_mapped"_a = false)
      .def_prop_ro("isa", &NativeModel::isa)
      .def_prop_ro("threads", &NativeModel::threads)
      .def("head_scan_counts", &NativeModel::head_scan_counts)
      .def("new_sequence", &NativeModel::new_sequence)
      .def("new_sequence_from", &NativeModel::new_sequence_from, "keys"_a, "values"_a)
      .def("forward", &NativeModel::forward, "sequences"_a, "token_ids"_a, "logits"_a, "hidden"_a,
           "hidden_states"_a, "attentions"_a, "head_mask"_a.none(), "phases"_a)
      .def("project", &NativeModel::project, "states"_a, "phase"_a)
      .def("head_upper_bounds", &NativeModel::head_upper_bounds, "states"_a)
      .def("generate", &NativeModel::generate, nb::kw_only(), "prompts"_a, "max_new_tokens"_a,
           "min_new_tokens"_a, "seeds"_a, "num_return_sequences"_a, "eos_token_ids"_a, "do_sample"_a,
           "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a, "typical_p"_a, "epsilon_cutoff"_a,
           "eta_cutoff"_a, "repetition_penalty"_a, "no_repeat_ngram_size"_a, "bad_words_ids"_a,
           "num_assistant_tokens"_a, "max_matching_ngram_size"_a, "assistant"_a.none(),
           "is_constant_schedule"_a, "assistant_confidence_threshold"_a, "clock"_a.none(), "max_rows"_a,
           "on_token"_a.none());

  m.def("coin", &coin, "seed"_a, "row"_a, "position"_a);
  m.def("supported_isas", [] {
    std::vector<std::string> names;
    for (const char* name : {"reference", "avx2", "avx512"}) {
      try {
        names.emplace_back(select_kernels(name).name);
      } catch (const std::runtime_error&) {
      }
    }
    return names;
  });
  m.def("isa", [] { return select_kernels(std::getenv("GPT2KIT_ISA")).name; });
}

}  // namespace gpt2kit
