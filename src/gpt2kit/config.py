"""GPT2Config: the shape and the switches of a GPT-2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class GPT2Config:
    """First cut; fields and defaults are Transformers'."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    use_cache: bool = True
    bos_token_id: int | None = 50256
    eos_token_id: Any = 50256
    pad_token_id: int | None = None
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
