// Products of matrices in bfloat16 with float32 sums: twice the arithmetic of float32 where the processor has
// AVX512-BF16, and the same bits, more slowly, where it has not.
//
// Activations are rounded to bfloat16 before each product with a matrix, weights are bfloat16 as stored. A
// product goes in pairs of features, (0, 1), (2, 3) and so on; a last one without a partner is paired with
// zero. A step of a chain adds a pair to a sum as vdpbf16ps does:
//
//   sum = flush(fma(x[2p + 1], w[2p + 1], sum)), then sum = flush(fma(x[2p], w[2p], sum))
//
// where flush makes subnormal results zero (judged after rounding, and keeping the sign) and subnormal
// operands count as zero too. As in kernels.h no order depends on the number of rows, on the thread or on the
// instruction set, so one token at a time gives what a whole prompt gives.

#pragma once

#include <cstdint>

#include "kernels.h"
#include "weights.h"

namespace gpt2kit {

// Where the first of a product's two chains ends: half of the pairs.
constexpr int64_t half_of_pairs(int64_t in_features) {
  return in_features < 2 ? in_features : (in_features + 3) / 4 * 2;
}

// As Kernels and MatrixKernels, which see; x and w are bfloat16. A row of x has a zero behind an odd number
// of features, and so gets one of out where that is rounded. If epilogue.round_out then out is BFloat16,
// rounded last.
struct BFloat16Kernels {
  // out[i] = x[i], i < n, rounded to nearest, ties to even; subnormals become zero.
  void (*round)(BFloat16* out, const float* x, int64_t n);

  // Order: two chains over pairs from zero, features 0 .. half_of_pairs(I)-1 and half_of_pairs(I) .. I-1.
  void (*linear)(void* out, int64_t out_stride, const BFloat16* x, int64_t x_stride, const void* w,
                 int64_t w_stride, int64_t rows, int64_t in_features, int64_t begin, int64_t end,
                 const Epilogue& epilogue, float* scratch);

  // k_begin is even; k_end is even or the last feature's.
  void (*partial_sums)(float* sums, int64_t sums_stride, const BFloat16* x, int64_t x_stride, const void* w,
                       int64_t w_stride, int64_t rows, int64_t k_begin, int64_t k_end, int64_t begin,
                       int64_t end);

  void (*finish_sums)(void* out, int64_t out_stride, const float* first, const float* second,
                      int64_t sums_stride, int64_t rows, int64_t begin, int64_t end,
                      const Epilogue& epilogue);

  // Order: 16 partial sums, sum j over pairs j, j+16, ...; then sum_lanes.
  void (*project)(float* out, int64_t out_stride, const BFloat16* x, int64_t x_stride, const void* w,
                  int64_t rows, int64_t channels, int64_t begin, int64_t end);
};

extern const BFloat16Kernels kReferenceBFloat16Kernels;
#ifdef GPT2KIT_X86
extern const BFloat16Kernels kAvx2BFloat16Kernels;
extern const BFloat16Kernels kAvx512BFloat16Kernels;  // with the instruction
#endif

// The fastest table that goes with these kernels on this processor.
const BFloat16Kernels& select_bfloat16_kernels(const Kernels& kernels);

}  // namespace gpt2kit
