// gpt2kit._native.Bpe: the tokenizer core. Every argument is checked here; texts are read without a copy.

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>

#include "bindings.h"
#include "bpe.h"

namespace nb = nanobind;

namespace gpt2kit {
namespace {

constexpr long long kMaxThreads = 256;

std::string kind_of(nb::handle value) {
  return nb::cast<std::string>(nb::str(value.type().attr("__name__")));
}

std::string_view bytes_view(nb::handle value, const char* name) {
  char* data = nullptr;
  Py_ssize_t size = 0;
  if (!PyBytes_Check(value.ptr()))
    throw nb::type_error((std::string(name) + " must be bytes, not " + kind_of(value)).c_str());
  PyBytes_AsStringAndSize(value.ptr(), &data, &size);
  return {data, static_cast<size_t>(size)};
}

// The UTF-8 of a str, or the bytes of a bytes object; `keep` holds whatever owns them.
std::string_view text_view(nb::handle text, const char* name, std::vector<nb::object>& keep) {
  if (PyBytes_Check(text.ptr())) {
    keep.push_back(nb::borrow(text));
    return bytes_view(text, name);
  }
  if (!PyUnicode_Check(text.ptr()))
    throw nb::type_error((std::string(name) + " must be str, not " + kind_of(text)).c_str());
  Py_ssize_t size = 0;
  const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
  if (data) {
    keep.push_back(nb::borrow(text));
    return {data, static_cast<size_t>(size)};
  }
  if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) nb::raise_python_error();
  PyErr_Clear();
  // Lone surrogates become U+FFFD and pairs become their character, as in tiktoken.
  const nb::object units = text.attr("encode")("utf-16-le", "surrogatepass");
  const nb::object repaired = units.attr("decode")("utf-16-le", "replace");
  data = PyUnicode_AsUTF8AndSize(repaired.ptr(), &size);
  if (!data) nb::raise_python_error();
  keep.push_back(repaired);
  return {data, static_cast<size_t>(size)};
}

long long integer(nb::handle value, const char* name, long long low, long long high) {
  int overflow = 0;
  const long long result = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
  if (result == -1 && overflow == 0 && PyErr_Occurred()) nb::raise_python_error();
  if (overflow != 0 || result < low || result > high)
    throw nb::value_error((std::string(name) + " is " + nb::cast<std::string>(nb::str(value)) +
                           "; it must be from " + std::to_string(low) + " to " + std::to_string(high))
                              .c_str());
  return result;
}

bool flag(nb::handle value, const char* name) {
  if (!PyBool_Check(value.ptr()))
    throw nb::type_error((std::string(name) + " must be True or False, not " + kind_of(value)).c_str());
  return value.ptr() == Py_True;
}

EncodeOptions encode_options(nb::handle split_special, nb::handle prefix_space) {
  return {flag(split_special, "split_special"), flag(prefix_space, "prefix_space")};
}

unsigned thread_count(nb::handle threads) {
  return static_cast<unsigned>(integer(threads, "threads", 1, kMaxThreads));
}

std::vector<int64_t> id_vector(nb::handle ids) {
  const nb::object list = nb::steal(PySequence_List(ids.ptr()));
  if (!list.is_valid()) nb::raise_python_error();
  const Py_ssize_t size = PyList_Size(list.ptr());
  std::vector<int64_t> result(static_cast<size_t>(size));
  for (Py_ssize_t i = 0; i < size; ++i)
    result[static_cast<size_t>(i)] = integer(PyList_GetItem(list.ptr(), i), "a token id", 0, INT64_MAX);
  return result;
}

template <class T>
nb::object array(std::vector<T>&& values) {
  auto* owned = new std::vector<T>(std::move(values));
  const nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<1>>(owned->data(), {owned->size()}, owner));
}

nb::object array(IdBuffer&& ids) {
  const size_t size = ids.size();
  int32_t* data = size == 0 ? new int32_t[1] : ids.release().release();
  const nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<int32_t*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, int32_t, nb::ndim<1>>(data, {size}, owner));
}

nb::object text_object(std::string_view text) {
  PyObject* result = PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace");
  if (!result) nb::raise_python_error();
  return nb::steal(result);
}

class PyBpe {
 public:
  PyBpe(nb::handle vocab, nb::handle merges, nb::handle merges_are_json, nb::handle ignore_merges)
      : bpe_(make_vocabulary(vocab, merges, flag(merges_are_json, "merges_are_json")),
             flag(ignore_merges, "ignore_merges")) {}

  explicit PyBpe(Bpe bpe) : bpe_(std::move(bpe)) {}

  PyBpe with_added_tokens(nb::handle tokens, nb::handle unknown) const {
    check_list(tokens, "tokens", "(content, id, single_word, lstrip, rstrip, special, normalized)");
    std::vector<AddedToken> result;
    for (nb::handle item : tokens) {
      if (!PyTuple_Check(item.ptr()) || nb::len(item) != 7)
        throw nb::type_error(
            "an added token must be (content, id, single_word, lstrip, rstrip, special, normalized)");
      std::vector<nb::object> keep;
      const auto id = static_cast<int32_t>(integer(item[1], "an added token's id", 0, kMaxTokenId));
      result.push_back({std::string(text_view(item[0], "an added token", keep)), id,
                        flag(item[2], "single_word"), flag(item[3], "lstrip"), flag(item[4], "rstrip"),
                        flag(item[5], "special"), flag(item[6], "normalized")});
    }
    const auto unknown_id =
        unknown.is_none() ? kNoToken : static_cast<int32_t>(integer(unknown, "unknown", 0, kMaxTokenId));
    return PyBpe(bpe_.with_added_tokens(std::move(result), unknown_id));
  }

  nb::object encode(nb::handle text, nb::handle split_special, nb::handle prefix_space) {
    std::vector<nb::object> keep;
    const std::vector<std::string_view> views = {text_view(text, "text", keep)};
    return lists(run(views, encode_options(split_special, prefix_space), /*with_details=*/false, 1))[0];
  }

  nb::list encode_lists(nb::handle texts, nb::handle split_special, nb::handle prefix_space,
                        nb::handle threads) {
    std::vector<nb::object> keep;
    const EncodeOptions options = encode_options(split_special, prefix_space);
    return lists(run(views(texts, keep), options, /*with_details=*/false, thread_count(threads)));
  }

  nb::tuple encode_arrays(nb::handle texts, nb::handle split_special, nb::handle prefix_space,
                          nb::handle threads) {
    std::vector<nb::object> keep;
    const EncodeOptions options = encode_options(split_special, prefix_space);
    EncodedBatch batch = run(views(texts, keep), options, /*with_details=*/false, thread_count(threads));
    return nb::make_tuple(array(std::move(batch.rows.ids)), array(std::move(batch.row_splits)));
  }

  nb::tuple encode_details(nb::handle texts, nb::handle split_special, nb::handle prefix_space,
                           nb::handle threads) {
    std::vector<nb::object> keep;
    const EncodeOptions options = encode_options(split_special, prefix_space);
    EncodedBatch batch = run(views(texts, keep), options, /*with_details=*/true, thread_count(threads));
    Details& details = batch.rows.details;
    return nb::make_tuple(array(std::move(batch.rows.ids)), array(std::move(batch.row_splits)),
                          array(std::move(details.begin)), array(std::move(details.end)),
                          array(std::move(details.word)));
  }

  nb::bytes decode(nb::handle ids) const {
    const std::vector<int64_t> values = id_vector(ids);
    std::string out;
    bpe_.decode(values.data(), values.size(), out);
    return nb::bytes(out.data(), out.size());
  }

  nb::object token_to_id(nb::handle token) const {
    std::vector<nb::object> keep;
    const int32_t id = bpe_.vocabulary().find(text_view(token, "token", keep));
    return id == kNoToken ? nb::none() : nb::object(nb::int_(id));
  }

  nb::object id_to_token(nb::handle id) const {
    const long long value = integer(id, "a token id", 0, INT64_MAX);
    if (!bpe_.vocabulary().has_id(value)) return nb::none();
    return text_object(bpe_.vocabulary().name(static_cast<int32_t>(value)));
  }

  nb::dict vocab() const {
    nb::dict result;
    for (int32_t id = 0; id <= bpe_.vocabulary().max_id(); ++id) {
      if (bpe_.vocabulary().has_id(id)) result[text_object(bpe_.vocabulary().name(id))] = id;
    }
    return result;
  }

  nb::list merges() const {
    nb::list result;
    const std::vector<std::pair<int32_t, int32_t>> pairs = bpe_.vocabulary().merges();
    for (const auto& [left, right] : pairs)
      result.append(nb::make_tuple(text_object(bpe_.vocabulary().name(left)),
                                   text_object(bpe_.vocabulary().name(right))));
    return result;
  }

  bool ignore_merges() const { return bpe_.ignore_merges(); }
  size_t size() const { return bpe_.vocabulary().size(); }
  int32_t max_id() const { return bpe_.vocabulary().max_id(); }

 private:
  static void check_list(nb::handle value, const char* name, const char* item) {
    if (!PyList_Check(value.ptr()) && !PyTuple_Check(value.ptr()))
      throw nb::type_error(
          (std::string(name) + " must be a list of " + item + ", not " + kind_of(value)).c_str());
  }

  static Vocabulary make_vocabulary(nb::handle vocab, nb::handle merges, bool merges_are_json) {
    const std::string_view vocab_bytes = bytes_view(vocab, "vocab");
    const std::string_view merges_bytes = bytes_view(merges, "merges");
    const nb::gil_scoped_release release;
    return Vocabulary(vocab_bytes, merges_bytes, merges_are_json);
  }

  static std::vector<std::string_view> views(nb::handle texts, std::vector<nb::object>& keep) {
    check_list(texts, "texts", "str");
    std::vector<std::string_view> result;
    const size_t size = nb::len(texts);
    result.reserve(size);
    keep.reserve(size);
    for (nb::handle text : texts) result.push_back(text_view(text, "each text", keep));
    return result;
  }

  EncodedBatch run(const std::vector<std::string_view>& texts, EncodeOptions options, bool with_details,
                   unsigned num_threads) const {
    const nb::gil_scoped_release release;
    return bpe_.encode(texts, options, with_details, num_threads);
  }

  // The ids recur, so each is made a Python integer once.
  PyObject* shared_int(int32_t id) {
    const auto index = static_cast<size_t>(id);
    if (index >= ints_.size()) ints_.resize(index + 1);
    if (!ints_[index].is_valid()) ints_[index] = nb::int_(id);
    return ints_[index].inc_ref().ptr();
  }

  nb::list lists(const EncodedBatch& batch) {
    const size_t num_rows = batch.row_splits.size() - 1;
    const int32_t* ids = batch.rows.ids.data();
    nb::list rows;
    for (size_t r = 0; r < num_rows; ++r) {
      const auto begin = static_cast<size_t>(batch.row_splits[r]);
      const auto end = static_cast<size_t>(batch.row_splits[r + 1]);
      const nb::object row = nb::steal(PyList_New(static_cast<Py_ssize_t>(end - begin)));
      if (!row.is_valid()) nb::raise_python_error();
      for (size_t i = begin; i < end; ++i)
        PyList_SetItem(row.ptr(), static_cast<Py_ssize_t>(i - begin), shared_int(ids[i]));
      rows.append(row);
    }
    return rows;
  }

  Bpe bpe_;
  std::vector<nb::object> ints_;
};

nb::tuple model_spans(nb::handle text) {
  const ModelSpans spans = find_model_spans(bytes_view(text, "text"));
  return nb::make_tuple(nb::make_tuple(spans.vocab.begin, spans.vocab.end),
                        nb::make_tuple(spans.merges.begin, spans.merges.end));
}

}  // namespace

void bind_tokenizer(nb::module_& m) {
  nb::class_<PyBpe>(m, "Bpe", "Byte-level BPE. Texts may be str, or bytes that need not be UTF-8.")
      .def(nb::init<nb::handle, nb::handle, nb::handle, nb::handle>(), nb::arg("vocab"), nb::arg("merges"),
           nb::arg("merges_are_json"), nb::arg("ignore_merges"),
           "vocab: JSON object of token to id. merges: merges.txt, or a JSON array. ValueError if damaged.")
      .def("with_added_tokens", &PyBpe::with_added_tokens, nb::arg("tokens"), nb::arg("unknown").none(),
           "The same vocabulary with tokens to look for before splitting: (content, id, single_word, lstrip, "
           "rstrip, "
           "special, normalized). unknown: the id of bytes without a token, or None to refuse them.")
      .def("encode", &PyBpe::encode, nb::arg("text"), nb::arg("split_special"), nb::arg("prefix_space"),
           "Token ids of one text, as a list.")
      .def("encode_lists", &PyBpe::encode_lists, nb::arg("texts"), nb::arg("split_special"),
           nb::arg("prefix_space"), nb::arg("threads"), "A list of token ids for each text.")
      .def("encode_arrays", &PyBpe::encode_arrays, nb::arg("texts"), nb::arg("split_special"),
           nb::arg("prefix_space"), nb::arg("threads"), "(ids int32, row_splits int64) of all texts.")
      .def("encode_details", &PyBpe::encode_details, nb::arg("texts"), nb::arg("split_special"),
           nb::arg("prefix_space"), nb::arg("threads"),
           "(ids, row_splits, first character, last character + 1, word number) of all texts.")
      .def("decode", &PyBpe::decode, nb::arg("ids"),
           "The bytes that token ids stand for; unknown ids give none.")
      .def("token_to_id", &PyBpe::token_to_id, nb::arg("token"), "None if the vocabulary does not have it.")
      .def("id_to_token", &PyBpe::id_to_token, nb::arg("id"), "None if the vocabulary does not have it.")
      .def("vocab", &PyBpe::vocab, "A new dict of token to id, by rising id.")
      .def("merges", &PyBpe::merges, "A new list of (left, right), by rising rank.")
      .def_prop_ro("ignore_merges", &PyBpe::ignore_merges)
      .def_prop_ro("size", &PyBpe::size)
      .def_prop_ro("max_id", &PyBpe::max_id);
  m.def("model_spans", &model_spans, nb::arg("text"),
        "Byte ranges of model.vocab and model.merges in a tokenizer.json; (0, 0) where there is none.");
}

}  // namespace gpt2kit
