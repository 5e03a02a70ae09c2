// gpt2kit._native: NativeModel and KvSequence. Everything that comes from Python is checked here.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>

#include "bindings.h"
#include "forward.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace gpt2kit {
namespace {

using Weights = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using TokenIds = std::vector<int64_t>;

std::string shape_text(const Weights& array) {
  std::string text = "(";
  for (size_t i = 0; i < array.ndim(); ++i) text += (i ? ", " : "") + std::to_string(array.shape(i));
  return text + ")";
}

Activation activation_from(const std::string& name) {
  static const std::pair<const char*, Activation> kNames[] = {
      {"gelu_new", Activation::kGeluTanh},    {"gelu_pytorch_tanh", Activation::kGeluTanh},
      {"gelu_fast", Activation::kGeluTanh},   {"gelu_accurate", Activation::kGeluTanh},
      {"gelu", Activation::kGeluErf},         {"gelu_python", Activation::kGeluErf},
      {"quick_gelu", Activation::kGeluQuick}, {"relu", Activation::kRelu},
      {"silu", Activation::kSilu},            {"swish", Activation::kSilu},
      {"tanh", Activation::kTanh},            {"sigmoid", Activation::kSigmoid},
      {"linear", Activation::kNone},
  };
  std::string known;
  for (const auto& [known_name, activation] : kNames) {
    if (name == known_name) return activation;
    known += (known.empty() ? "" : ", ") + std::string(known_name);
  }
  throw nb::value_error(("activation_function '" + name + "' has no native kernel; it has " + known).c_str());
}

// Positions and their owner: the C++ model outlives every sequence that was made for it.
class NativeModel;

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

  std::shared_ptr<KvCache> checked(const char* action) const {
    if (!cache_) throw nb::value_error((std::string("cannot ") + action + " a sequence after free()").c_str());
    return cache_;
  }
  const Forward* forward() const { return forward_.get(); }

 private:
  std::shared_ptr<Forward> forward_;
  std::shared_ptr<KvCache> cache_;
};

class NativeModel {
 public:
  NativeModel(int64_t n_layer, int64_t n_head, int64_t n_embd, int64_t n_inner, int64_t n_positions,
              int64_t vocab_size, const std::string& activation_function, float layer_norm_epsilon,
              bool scale_attn_weights, bool scale_attn_by_inverse_layer_idx, const nb::dict& weights, int threads,
              std::optional<std::string> isa) {
    constexpr int64_t kLimit = int64_t{1} << 24;
    const auto check = [](const char* name, int64_t value, int64_t limit) {
      if (value < 1 || value > limit) {
        throw nb::value_error(
            (std::string(name) + " is " + std::to_string(value) + "; it must be from 1 to " + std::to_string(limit))
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
      throw nb::value_error(("n_embd " + std::to_string(n_embd) + " is not a multiple of n_head " +
                             std::to_string(n_head))
                                .c_str());
    }

    Model model;
    model.shape = {n_layer, n_head, n_embd, n_inner, n_positions, vocab_size};
    model.activation = activation_from(activation_function);
    model.layer_norm_epsilon = layer_norm_epsilon;
    model.scale_attn_weights = scale_attn_weights;
    model.scale_attn_by_inverse_layer_idx = scale_attn_by_inverse_layer_idx;

    const auto tensor = [&](const std::string& name, std::initializer_list<int64_t> shape) {
      if (!weights.contains(name.c_str())) throw nb::value_error(("weights have no tensor '" + name + "'").c_str());
      Weights array;
      if (!nb::try_cast<Weights>(weights[name.c_str()], array)) {
        throw nb::type_error(("tensor '" + name + "' must be a C-contiguous float32 array on the CPU").c_str());
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
        throw nb::value_error(
            ("tensor '" + name + "' has shape " + shape_text(array) + "; the configuration needs (" + wanted + ")")
                .c_str());
      }
      keep_alive_.push_back(array);
      return array.data();
    };
    const auto norm = [&](const std::string& name) {
      return Norm{tensor(name + ".weight", {n_embd}), tensor(name + ".bias", {n_embd})};
    };
    const auto linear = [&](const std::string& name, int64_t in, int64_t out) {
      return Linear{tensor(name + ".weight", {in, out}), tensor(name + ".bias", {out})};
    };
    model.wte = tensor("wte.weight", {vocab_size, n_embd});
    model.wpe = tensor("wpe.weight", {n_positions, n_embd});
    for (int64_t i = 0; i < n_layer; ++i) {
      const std::string h = "h." + std::to_string(i) + ".";
      model.h.push_back({norm(h + "ln_1"), linear(h + "attn.c_attn", n_embd, 3 * n_embd),
                         linear(h + "attn.c_proj", n_embd, n_embd), norm(h + "ln_2"),
                         linear(h + "mlp.c_fc", n_embd, n_inner), linear(h + "mlp.c_proj", n_inner, n_embd)});
    }
    model.ln_f = norm("ln_f");
    model.lm_head =
        weights.contains("lm_head.weight") ? tensor("lm_head.weight", {vocab_size, n_embd}) : model.wte;

    const Kernels& kernels = select_kernels(isa ? isa->c_str() : std::getenv("GPT2KIT_ISA"));
    forward_ = std::make_shared<Forward>(std::move(model), threads, kernels);
  }

  KvSequence new_sequence() const { return {forward_, std::make_shared<KvCache>(forward_->model().shape)}; }

  const char* isa() const { return forward_->kernels().name; }
  int threads() const { return forward_->threads(); }

  // (logits or None, hidden or None): rows of all the work, one after another.
  nb::tuple forward(const nb::list& sequences, const std::vector<TokenIds>& token_ids, const std::string& logits,
                    bool hidden) const {
    const ModelShape& shape = forward_->model().shape;
    const Rows rows = logits == "last"   ? Rows::kLast
                      : logits == "all"  ? Rows::kAll
                      : logits == "none" ? Rows::kNone
                                         : throw nb::value_error("logits must be 'last', 'all' or 'none'");
    if (nb::len(sequences) != token_ids.size()) throw nb::value_error("sequences and token_ids differ in length");

    std::vector<Work> work;
    std::vector<std::shared_ptr<KvCache>> caches;
    std::vector<std::vector<int32_t>> ids;
    std::set<const KvCache*> seen;
    int64_t total = 0;
    for (size_t i = 0; i < token_ids.size(); ++i) {
      const auto& sequence = nb::cast<const KvSequence&>(sequences[i]);
      if (sequence.forward() != forward_.get()) throw nb::value_error("a sequence belongs to another model");
      caches.push_back(sequence.checked("use"));
      if (!seen.insert(caches.back().get()).second) throw nb::value_error("a sequence occurs twice in one forward");
      ids.push_back(checked_ids(token_ids[i], caches.back()->length()));
      work.push_back({caches.back().get(), ids.back().data(), static_cast<int64_t>(ids.back().size())});
      total += static_cast<int64_t>(ids.back().size());
    }

    const int64_t logits_rows = rows == Rows::kAll ? total : rows == Rows::kLast ? static_cast<int64_t>(work.size()) : 0;
    auto logits_data = std::unique_ptr<float[]>(rows == Rows::kNone ? nullptr : new float[logits_rows * shape.vocab_size]);
    auto hidden_data = std::unique_ptr<float[]>(hidden ? new float[total * shape.n_embd] : nullptr);
    {
      const nb::gil_scoped_release release;
      forward_->run(work, rows, logits_data.get(), hidden_data.get());
    }
    return nb::make_tuple(to_numpy(std::move(logits_data), logits_rows, shape.vocab_size),
                          to_numpy(std::move(hidden_data), total, shape.n_embd));
  }

 private:
  std::vector<int32_t> checked_ids(const TokenIds& token_ids, int64_t past) const {
    const ModelShape& shape = forward_->model().shape;
    if (token_ids.empty()) throw nb::value_error("token_ids is empty; a forward needs at least one token");
    if (past + static_cast<int64_t>(token_ids.size()) > shape.n_positions) {
      throw nb::value_error(("the sequence would have " + std::to_string(past + token_ids.size()) +
                             " tokens; n_positions is " + std::to_string(shape.n_positions))
                                .c_str());
    }
    std::vector<int32_t> ids;
    ids.reserve(token_ids.size());
    for (const int64_t id : token_ids) {
      if (id < 0 || id >= shape.vocab_size) {
        throw nb::value_error(
            ("token id " + std::to_string(id) + " is not in [0, " + std::to_string(shape.vocab_size) + ")").c_str());
      }
      ids.push_back(static_cast<int32_t>(id));
    }
    return ids;
  }

  static nb::object to_numpy(std::unique_ptr<float[]> data, int64_t rows, int64_t columns) {
    if (!data) return nb::none();
    float* p = data.release();
    const nb::capsule owner(p, [](void* q) noexcept { delete[] static_cast<float*>(q); });
    const size_t shape[2] = {static_cast<size_t>(rows), static_cast<size_t>(columns)};
    return nb::cast(nb::ndarray<nb::numpy, float>(p, 2, shape, owner));
  }

  std::vector<Weights> keep_alive_;  // declared first, so that it goes last
  std::shared_ptr<Forward> forward_;
};

}  // namespace

void bind_engine(nb::module_& m) {
  nb::class_<KvSequence>(m, "KvSequence")
      .def_prop_ro("length", &KvSequence::length)
      .def_prop_ro("is_free", &KvSequence::is_free)
      .def("fork", &KvSequence::fork)
      .def("truncate", &KvSequence::truncate, "length"_a)
      .def("free", &KvSequence::free);

  nb::class_<NativeModel>(m, "NativeModel")
      .def(nb::init<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, const std::string&, float, bool, bool,
                    const nb::dict&, int, std::optional<std::string>>(),
           "n_layer"_a, "n_head"_a, "n_embd"_a, "n_inner"_a, "n_positions"_a, "vocab_size"_a, "activation_function"_a,
           "layer_norm_epsilon"_a, "scale_attn_weights"_a, "scale_attn_by_inverse_layer_idx"_a, "weights"_a,
           "threads"_a, "isa"_a = nb::none())
      .def_prop_ro("isa", &NativeModel::isa)
      .def_prop_ro("threads", &NativeModel::threads)
      .def("new_sequence", &NativeModel::new_sequence)
      .def("forward", &NativeModel::forward, "sequences"_a, "token_ids"_a, "logits"_a, "hidden"_a);

  m.def("isa", [] { return select_kernels(std::getenv("GPT2KIT_ISA")).name; });
}

}  // namespace gpt2kit
