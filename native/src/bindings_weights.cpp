// gpt2kit._native: weights into other formats.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "bindings.h"
#include "kernels.h"
#include "pack_int8.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace gpt2kit {
namespace {

using AnyArray = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

// Memory that becomes a numpy array, on cache lines and in large pages where the system has them.
template <typename T>
class NewArray {
 public:
  explicit NewArray(std::vector<size_t> shape) : shape_(std::move(shape)) {
    constexpr size_t kPage = size_t{1} << 21;
    size_t bytes = sizeof(T);
    for (const size_t n : shape_) bytes *= n;
    const size_t alignment = bytes < kPage ? 64 : kPage;
    bytes = std::max<size_t>(1, (bytes + alignment - 1) / alignment) * alignment;
    data_ = static_cast<T*>(std::aligned_alloc(alignment, bytes));
    if (!data_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (alignment == kPage) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
    owner_ = nb::capsule(data_, [](void* p) noexcept { std::free(p); });
  }

  T* data() const { return data_; }
  nb::object to_numpy() const {
    return nb::cast(nb::ndarray<nb::numpy, T>(data_, shape_.size(), shape_.data(), owner_));
  }

 private:
  std::vector<size_t> shape_;
  T* data_;
  nb::capsule owner_;
};

Dtype float_dtype_of(const AnyArray& array) {
  if (array.dtype() == nb::dtype<float>()) return Dtype::kFloat32;
  if (array.dtype() == nb::dlpack::dtype{static_cast<uint8_t>(nb::dlpack::dtype_code::Float), 16, 1})
    return Dtype::kFloat16;
  if (array.dtype() == nb::dtype<uint16_t>()) return Dtype::kBFloat16;
  throw nb::type_error("weights must be float32, float16, or uint16 holding the bits of bfloat16");
}

void check_threads(int threads) {
  if (threads < 1 || threads > 1024)
    throw nb::value_error(("threads is " + std::to_string(threads) + "; it must be from 1 to 1024").c_str());
}

nb::object pack(const AnyArray& weights, bool is_transposed, int threads) {
  check_threads(threads);
  const Dtype dtype = float_dtype_of(weights);
  if (weights.ndim() != 2) throw nb::value_error("weights must be a matrix");
  const size_t in = weights.shape(is_transposed ? 1 : 0), out = weights.shape(is_transposed ? 0 : 1);
  const auto inputs = static_cast<int64_t>(in), outputs = static_cast<int64_t>(out);
  const auto groups = static_cast<size_t>(int8_groups(inputs)),
             panels = static_cast<size_t>(int8_panels(outputs));
  const NewArray<uint8_t> codes({panels, groups, kInt8Group / kInt8LineInputs, kInt8Panel, kInt8LineInputs});
  const NewArray<uint16_t> scales({panels, groups, kInt8Panel});
  const FloatMatrix matrix{{weights.data(), dtype}, inputs, outputs, is_transposed};
  const Kernels& kernels = select_kernels(std::getenv("GPT2KIT_ISA"));
  bool is_sound;
  {
    const nb::gil_scoped_release release;
    is_sound = pack_int8(codes.data(), reinterpret_cast<BFloat16*>(scales.data()), matrix, kernels, threads);
  }
  if (!is_sound) return nb::none();
  return nb::make_tuple(codes.to_numpy(), scales.to_numpy());
}

// Maps the pages of a mapped file while the caller goes on. A mapping that is gone meanwhile does no harm.
void prefault(const AnyArray& bytes) {
#ifdef __linux__
  constexpr int kPopulateRead = 22;  // MADV_POPULATE_READ; kernels before 5.14 refuse it
  constexpr uintptr_t kPage = 4096,
                      kStep = uintptr_t{1} << 22;  // others may change mappings between the steps
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data()) / kPage * kPage;
  const auto end = reinterpret_cast<uintptr_t>(bytes.data()) + bytes.nbytes();
  try {
    std::thread([begin, end] {
      for (uintptr_t at = begin; at < end; at += kStep) {
        if (madvise(reinterpret_cast<void*>(at), end - at < kStep ? end - at : kStep, kPopulateRead) != 0)
          return;
      }
    }).detach();
  } catch (const std::system_error&) {  // no thread to be had; reading maps the pages too
  }
#else
  static_cast<void>(bytes);
#endif
}

std::vector<size_t> shape_of(const AnyArray& array) {
  std::vector<size_t> shape;
  for (size_t i = 0; i < array.ndim(); ++i) shape.push_back(array.shape(i));
  return shape;
}

nb::object widened(const AnyArray& values) {
  const Dtype dtype = float_dtype_of(values);
  const NewArray<float> out(shape_of(values));
  const Kernels& kernels = select_kernels(std::getenv("GPT2KIT_ISA"));
  {
    const nb::gil_scoped_release release;
    kernels.reading(dtype).widen(out.data(), values.data(), static_cast<int64_t>(values.size()));
  }
  return out.to_numpy();
}

// The bits of a float32 to those of the nearest bfloat16, ties to even: half of the last kept bit, less one
// where that is even, carries into it exactly when it rounds up. NaN stays one.
uint16_t rounded_bits(uint32_t bits) {
  const uint32_t nearest = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? bits >> 16 | 0x40u : nearest);
}

nb::object rounded(const AnyArray& values) {
  if (values.dtype() != nb::dtype<float>()) throw nb::type_error("values must be float32");
  const NewArray<uint16_t> out(shape_of(values));
  {
    const nb::gil_scoped_release release;
    const auto* in = static_cast<const char*>(values.data());  // of any alignment
    uint16_t* const to = out.data();
    const size_t size = values.size();
    for (size_t i = 0; i < size; ++i) {
      uint32_t bits;
      std::memcpy(&bits, in + i * sizeof(bits), sizeof(bits));
      to[i] = rounded_bits(bits);
    }
  }
  return out.to_numpy();
}

// Bits of bfloat16: infinity and NaN are above all finite numbers, negative ones above those.
bool are_scales(const AnyArray& scales) {
  if (scales.dtype() != nb::dtype<uint16_t>()) throw nb::type_error("scales must be uint16");
  const auto* bits = static_cast<const uint16_t*>(scales.data());
  uint16_t largest = 0;
  for (size_t i = 0; i < scales.size(); ++i) largest = bits[i] > largest ? bits[i] : largest;
  return largest < 0x7f80;
}

}  // namespace

void bind_weights(nb::module_& m) {
  m.def("are_scales", &are_scales, "scales"_a.noconvert());
  m.def("round_to_bfloat16", &rounded, "values"_a.noconvert());
  m.def("widen", &widened, "values"_a.noconvert());
  m.def("prefault", &prefault, "bytes"_a.noconvert());
  m.def("pack_int8", &pack, "weights"_a.noconvert(), "is_transposed"_a, "threads"_a);
}

}  // namespace gpt2kit
