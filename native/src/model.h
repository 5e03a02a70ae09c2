// The weights of a GPT-2 and what is to be done with them.

#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"
#include "weights.h"

namespace gpt2kit {

struct ModelShape {
  int64_t n_layer, n_head, n_embd, n_inner, n_positions, vocab_size;
  int64_t head_size() const { return n_embd / n_head; }
  int64_t padded_head_size() const { return (head_size() + 15) / 16 * 16; }
};

struct Norm {
  Tensor weight;  // (C)
  Tensor bias;    // (C)
};

// A matrix as the checkpoint stores it, Conv1D, (in, out), or in 8 bits.
struct Linear {
  Tensor weight;  // (I, O)
  Tensor bias;    // (O)
  int64_t in_features, out_features;
};

struct Block {
  Norm ln_1;
  Linear attn_c_attn;  // (C, 3C)
  Linear attn_c_proj;  // (C, C)
  Norm ln_2;
  Linear mlp_c_fc;    // (C, n_inner)
  Linear mlp_c_proj;  // (n_inner, C)
};

// Weights belong to somebody else, who keeps them alive and may change them between two runs. Each tensor has
// a format of its own.
struct Model {
  ModelShape shape;
  Activation activation;
  float layer_norm_epsilon;
  bool scale_attn_weights;
  bool scale_attn_by_inverse_layer_idx;
  KvFormat kv_format;  // of the caches that it runs with
  Tensor wte;          // (V, C); in 8 bits a matrix (C, V)
  Tensor wpe;          // (n_positions, C)
  std::vector<Block> h;
  Norm ln_f;
  Tensor lm_head;  // as wte, which it is where the two are tied
};

}  // namespace gpt2kit
