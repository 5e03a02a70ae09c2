// Products with the model's matrices: what is made of the activations first, which kernel reads which format
// of weights, and how the threads of a pass share the work.

#pragma once

#include <cstdint>
#include <vector>

#include "aligned_buffer.h"
#include "bfloat16_kernels.h"
#include "kernels.h"
#include "model.h"
#include "thread_pool.h"

namespace gpt2kit {

// With so few rows every thread makes them ready for itself, which is quicker than waiting for the others.
constexpr int64_t kPrivateRows = 4;

// What a token is: given, as a prompt's, or generated, or guessed to be.
enum class Phase { kPrefill, kDecode };

// What activations become before they meet a matrix in codes; one in NF4 meets 16 bits in the place of 8.
// With kFloat32 the weights become floats instead: the results are those of the dequantised matrix, to the
// bit.
enum class Precision { kFloat32, kInt16, kInt8 };

struct Precisions {
  Precision prefill = Precision::kInt16, decode = Precision::kInt16;
  bool has(Precision precision) const { return prefill == precision || decode == precision; }
  Precision in(Phase phase) const { return phase == Phase::kPrefill ? prefill : decode; }
};

// What a product reads: (rows, features) with a row stride in elements, which are floats, or BFloat16 where
// the products compute in bfloat16.
struct Activations {
  const void* values;
  int64_t stride, rows;
  Phase phase;
};

class Products {
 public:
  // bfloat16: null to compute in float32. All arguments must live as long as this does.
  Products(const Model& model, const Kernels& kernels, const BFloat16Kernels* bfloat16, Precisions precisions,
           ThreadPool& pool);

  // Whether a token's results depend on its phase.
  bool depends_on_phase() const {
    const bool is_exact_in_one = precisions_.has(Precision::kFloat32);
    return (is_exact_in_one ? uses_codes_ : uses_int8_) && precisions_.prefill != precisions_.decode;
  }

  // Makes room for products of so many rows.
  void reserve(int64_t rows);

  // The rest is called by all running members of the pool together, each with its number.

  // out (rows, O) = activation(x w + bias), or out += that. Ends with a barrier.
  //   Where round_out is set out is BFloat16.
  void multiply(void* out, int64_t out_stride, const Activations& x, const Linear& linear,
                Activation activation, bool add_to_out, bool round_out, int member);

  // logits (rows, V) = x times the head. Does not wait for the other members.
  void project(float* logits, const Activations& x, int member);

 private:
  void multiply_whole(void* out, int64_t out_stride, const Activations& x, const Linear& linear,
                      const Epilogue& epilogue, int member);
  void multiply_in_halves(void* out, int64_t out_stride, const Activations& x, const Linear& linear,
                          const Epilogue& epilogue, int member);
  void multiply_codes(float* out, int64_t out_stride, const Activations& x, const Tensor& w,
                      int64_t in_features, int64_t out_features, const Epilogue& epilogue, int member);
  void unpack(float* out, int64_t stride, const Tensor& w, int64_t in_features, int64_t out_features,
              int64_t panel) const;
  void multiply_unpacked(float* out, int64_t out_stride, const Activations& x, const Linear& linear,
                         const Epilogue& epilogue, int member);
  void project_unpacked(float* logits, const Activations& x, int member);

  const Model& model_;
  const Kernels& kernels_;
  const BFloat16Kernels* const bfloat16_;
  const Precisions precisions_;
  ThreadPool& pool_;
  const bool uses_int8_, uses_codes_;
  AlignedBuffer sums_, int8_rows_;
  std::vector<AlignedBuffer> private_int8_rows_, biases_, scratch_,
      unpacked_;  // one for each member of the pool
};

}  // namespace gpt2kit
