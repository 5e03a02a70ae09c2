// read_bytes_per_s() and operations_per_s() of gpt2kit._native.

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "bindings.h"
#include "roofline.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace gpt2kit {
namespace {

using AnyArray = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

void check_counts(int threads, int passes) {
  if (threads < 1 || threads > 1024)
    throw nb::value_error(("threads is " + std::to_string(threads) + "; it must be from 1 to 1024").c_str());
  if (passes < 1 || passes > 1000)
    throw nb::value_error(("passes is " + std::to_string(passes) + "; it must be from 1 to 1000").c_str());
}

std::vector<double> read_arrays(const std::vector<AnyArray>& arrays, int threads, int passes) {
  check_counts(threads, passes);
  std::vector<Bytes> ranges;
  size_t total = 0;
  for (const AnyArray& array : arrays) {
    ranges.push_back({array.data(), static_cast<int64_t>(array.nbytes())});
    total += array.nbytes();
  }
  if (total == 0) throw nb::value_error("arrays hold no bytes; there is nothing to read");
  const nb::gil_scoped_release release;
  return read_bytes_per_s(ranges, threads, passes);
}

std::vector<double> calculate(const std::string& arithmetic, int threads, int passes) {
  check_counts(threads, passes);
  const auto run = [&](Arithmetic kind) {
    const nb::gil_scoped_release release;
    return operations_per_s(kind, threads, passes);
  };
  if (arithmetic == "float32") return run(Arithmetic::kFloat32);
  if (arithmetic == "bfloat16") return run(Arithmetic::kBFloat16);
  if (arithmetic == "int8") return run(Arithmetic::kInt8);
  throw nb::value_error(
      ("arithmetic is '" + arithmetic + "'; it must be 'float32', 'bfloat16' or 'int8'").c_str());
}

}  // namespace

void bind_roofline(nb::module_& m) {
  m.def("read_bytes_per_s", &read_arrays, "arrays"_a, "threads"_a, "passes"_a);
  m.def("operations_per_s", &calculate, "arithmetic"_a, "threads"_a, "passes"_a);
}

}  // namespace gpt2kit
