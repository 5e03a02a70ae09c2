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

// What activations become before they meet a matrix in codes.
enum class Precision { kInt16, kInt8 };

struct Precisions {
  Precision prefill = Precision::kInt16, decode = Precision::kInt16;
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
  bool depends_on_phase() const { return uses_int8_ && precisions_.prefill != precisions_.decode; }

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
  void multiply_int8(float* out, int64_t out_stride, const Activations& x, const Int8Matrix& w,
                     const Epilogue& epilogue, int member);

  const Model& model_;
  const Kernels& kernels_;
  const BFloat16Kernels* const bfloat16_;
  const Precisions precisions_;
  ThreadPool& pool_;
  const bool uses_int8_;
  AlignedBuffer sums_, int8_rows_;
  std::vector<AlignedBuffer> private_int8_rows_, biases_, scratch_;  // one for each member of the pool
};

}  // namespace gpt2kit
