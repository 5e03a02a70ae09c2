"""The ways to compute attention: one table from a name to a function, open to entries of a user's own.

All compute softmax(scaling * query key^T + mask) value, with dropout on the weights. Which scaling that is and
what is done in float32 is decided above them, in attention.py, once for all. Only eager has the weights
at hand; attention_weights computes what the others hide.

B batch, H heads, T queries, which are the last ones of all S positions, D head size.
"""

import importlib
import importlib.util
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2kit.errors import ConfigError, EngineError, MissingDependencyError
from gpt2kit.model.masks import AttentionMask


class Backend(Protocol):
    """query (B, H, T, D), key and value (B, H, S, D), dropout a probability; returns (B, H, T, D)."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, scaling: float, dropout: float
    ) -> Tensor: ...


def get_backend(name: str) -> Backend:
    """Give the function of a name. Raises ConfigError, or MissingDependencyError for a package it needs."""
    backend = ATTENTION_BACKENDS.get(name)
    if backend is None:
        allowed = ", ".join(ATTENTION_BACKENDS)
        raise ConfigError(f"attn_implementation is {name!r}; it must be one of {allowed}")
    if backend is flash_attention_2 and importlib.util.find_spec("flash_attn") is None:
        device = "" if torch.cuda.is_available() else " and a CUDA device, of which there is none"
        raise MissingDependencyError(
            f"attn_implementation 'flash_attention_2' needs the package flash_attn, which is not installed{device}; "
            "install flash-attn or use 'sdpa'"
        )
    return backend


def attention_weights(query: Tensor, key: Tensor, mask: AttentionMask, scaling: float) -> Tensor:
    """Give the weights (B, H, T, S), each row summing to 1, before dropout."""
    scores = query @ key.transpose(2, 3) * scaling
    dense = mask.dense(query.shape[2], key.shape[2], query.device)
    if dense is not None and dense.dtype == torch.bool:
        # The lowest finite number rather than -inf: a row with nothing to see must not become NaN.
        scores = scores.masked_fill(~dense, torch.finfo(scores.dtype).min)
    elif dense is not None:
        scores = scores + dense
    return F.softmax(scores, dim=-1)


def eager(
    query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, scaling: float, dropout: float
) -> Tensor:
    """Write out every step; T times S weights take memory."""
    weights = attention_weights(query, key, mask, scaling).to(value.dtype)
    return mix(weights, value, dropout)


def mix(weights: Tensor, value: Tensor, dropout: float) -> Tensor:
    """Add up value by weights, of which dropout takes some away."""
    return (F.dropout(weights, dropout) if dropout else weights) @ value


def sdpa(
    query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, scaling: float, dropout: float
) -> Tensor:
    """Let torch choose among its fused kernels; without dropout that is flash attention on the CPU."""
    T, S = query.shape[2], key.shape[2]
    # is_causal of torch's kernel aligns the triangle at the first key; ours ends at the last.
    is_causal = T == S and mask.hides_future_only(T)
    dense = None if is_causal else mask.dense(T, S, query.device)
    if dense is not None and dense.dtype != torch.bool:
        dense = dense.to(query.dtype)
    return F.scaled_dot_product_attention(
        query, key, value, dense, dropout, is_causal=is_causal, scale=scaling
    )


def flex_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, scaling: float, dropout: float
) -> Tensor:
    """torch's flex_attention: compiled on accelerators, as it stands on the CPU, where it has no gradients."""
    from torch.nn.attention import flex_attention as flex

    if dropout:
        raise EngineError(
            "flex_attention has no dropout; set config.attn_pdrop to 0, use 'sdpa', or call model.eval()"
        )
    is_cpu = query.device.type == "cpu"
    if is_cpu and torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)):
        raise EngineError(
            "flex_attention has no gradients on the CPU; use torch.no_grad(), 'sdpa', or another device"
        )
    dense = mask.dense(query.shape[2], key.shape[2], query.device)
    attend: Any = flex.flex_attention if is_cpu or torch.compiler.is_compiling() else _compiled_flex()
    if dense is None:
        y: Tensor = attend(query, key, value, scale=scaling)
        return y
    added = dense if dense.dtype != torch.bool else torch.zeros_like(dense, dtype=query.dtype).masked_fill(
        ~dense, -torch.inf
    )  # fmt: skip
    added = added.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])

    def add_mask(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return score + added[b, h, q, k]

    y = attend(query, key, value, score_mod=add_mask, scale=scaling)
    return y


def flash_attention_2(
    query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, scaling: float, dropout: float
) -> Tensor:
    """The flash_attn package: CUDA, float16 or bfloat16. Knows causality and padding, no mask of 4 dimensions."""
    _check_flash(query, mask)
    flash_attn: Any = importlib.import_module("flash_attn")
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))  # (B, T, H, D)
    options = {"dropout_p": dropout, "softmax_scale": scaling, "causal": mask.is_causal}
    if mask.padding is None:
        y: Tensor = flash_attn.flash_attn_func(q, k, v, **options)
        return y.transpose(1, 2)
    B, T, H, D = q.shape
    kept_k = mask.padding.to(q.device)  # (B, S)
    # In self-attention the last T positions are the queries themselves; in cross-attention none is padding.
    kept_q = kept_k[:, -T:] if mask.is_causal else kept_k.new_ones(B, T)
    ends_q, ends_k = (F.pad(kept.sum(1).cumsum(0, dtype=torch.int32), (1, 0)) for kept in (kept_q, kept_k))
    packed = flash_attn.flash_attn_varlen_func(
        q[kept_q], k[kept_k], v[kept_k], ends_q, ends_k,
        int(kept_q.sum(1).max()), int(kept_k.sum(1).max()), **options,
    )  # fmt: skip
    y = query.new_zeros(B, T, H, D)
    y[kept_q] = packed
    return y.transpose(1, 2)


# Checked when a model is built, switched or run, so an entry may be added at any time.
ATTENTION_BACKENDS: dict[str, Backend] = {
    "sdpa": sdpa,
    "eager": eager,
    "flash_attention_2": flash_attention_2,
    "flex_attention": flex_attention,
}
DEFAULT_BACKEND = "sdpa"


def _check_flash(query: Tensor, mask: AttentionMask) -> None:
    """Name what keeps flash_attn from running."""
    if query.device.type != "cuda":
        raise EngineError(
            f"flash_attention_2 needs a CUDA device; the model is on {query.device}; move it or use 'sdpa'"
        )
    if query.dtype not in (torch.float16, torch.bfloat16):
        raise EngineError(
            f"flash_attention_2 needs float16 or bfloat16; the model is {query.dtype}; use model.half(), "
            "model.bfloat16() or 'sdpa'"
        )
    if mask.full is not None:
        raise EngineError(
            "flash_attention_2 takes masks of 2 dimensions only; use 'sdpa' for one of 4 dimensions"
        )


_flex: Any = None


def _compiled_flex() -> Any:
    """Compile flex_attention once for all models."""
    global _flex
    if _flex is None:
        from torch.nn.attention.flex_attention import flex_attention as uncompiled

        _flex = torch.compile(uncompiled)
    return _flex
