"""Self-attention and cross-attention, and the linear layer that GPT-2 checkpoints call Conv1D.

B batch, T new positions, S all positions, C channels, H heads, D head size.
"""

from contextlib import nullcontext
from typing import TypeAlias

import torch
from torch import Tensor, nn

from gpt2kit.config import GPT2Config
from gpt2kit.model.attention_backends import (
    DEFAULT_BACKEND,
    attention_weights,
    eager,
    flash_attention_2,
    get_backend,
    mix,
)
from gpt2kit.model.cache.caches import AnyCache, EncoderDecoderCache, RaggedCache
from gpt2kit.model.masks import AttentionMask

# Attention weights (B, H, T, S); of a RaggedCache one tensor (1, H, T, S) a row; None when not asked for.
Weights: TypeAlias = Tensor | tuple[Tensor | None, ...] | None


class Conv1D(nn.Module):
    """y = x W + b with W stored (in, out), the transpose of nn.Linear's, as on disk."""

    def __init__(self, out_features: int, in_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.empty(out_features))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return y.view(*x.shape[:-1], y.shape[-1])


class GPT2Attention(nn.Module):
    """Multi-head attention: causal over the text itself, or over an encoder's states.

    One rule for all back ends: scores are scaled by 1 / sqrt(D) if scale_attn_weights, and divided by the
    layer's number (from 1) if scale_attn_by_inverse_layer_idx; with reorder_and_upcast_attn scores and softmax
    are in float32 whatever the weights are. The output always comes from the back end in use; weights that it
    hides are computed beside it when they are asked for. A mask of single weights cannot be applied outside of
    a fused kernel, so there alone eager takes its place.
    """

    def __init__(self, config: GPT2Config, layer_idx: int, is_cross_attention: bool = False) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_size = config.n_embd // config.n_head
        # Cross-attention keeps all its heads: pruning is of self-attention.
        self.n_head = config.n_head if is_cross_attention else len(config.kept_heads(layer_idx))
        self.scaling = self.head_size**-0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scaling /= layer_idx + 1
        width = self.n_head * self.head_size
        self.is_cross_attention = is_cross_attention
        if is_cross_attention:
            self.q_attn = Conv1D(width, config.n_embd)
        self.c_attn = Conv1D((2 if is_cross_attention else 3) * width, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, width)
        self.attn_dropout = nn.Dropout(config.attn_pdrop)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(
        self,
        x: Tensor,
        mask: AttentionMask,
        cache: AnyCache | None = None,
        encoder_hidden_states: Tensor | None = None,
        head_mask: Tensor | None = None,
        needs_weights: bool = False,
    ) -> tuple[Tensor, Weights]:
        """Attend from x (B, T, C) to the cached positions and to itself, or to encoder_hidden_states (B, S, C).

        cache is extended by the new keys; those of an encoder are put into an EncoderDecoderCache once and
        read from there afterwards. head_mask: factors of the weights, broadcasting to (B, H, T, S).
        Returns the output (B, T, C) and, if needed, the weights after head_mask and before dropout.
        """
        weights: Weights
        if self.is_cross_attention:
            query = self._split_heads(self.q_attn(x))
            key, value = self._encoder_keys(encoder_hidden_states, cache)
            y, weights = self._attend(query, key, value, mask, head_mask, needs_weights)
        else:
            query, key, value = (
                self._split_heads(part) for part in self.c_attn(x).chunk(3, dim=-1)
            )  # (B, H, T, D)
            if isinstance(cache, RaggedCache):
                rows = []
                for row, (start, end) in zip(cache.caches, cache.spans, strict=True):
                    new = slice(start, end)
                    keys, values = row.update(key[:, :, new], value[:, :, new], self.layer_idx)
                    rows.append(self._attend(query[:, :, new], keys, values, mask, head_mask, needs_weights))
                y = torch.cat([row for row, _ in rows], dim=2)
                weights = tuple(row for _, row in rows) if needs_weights else None
            else:
                own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
                if own is not None:
                    key, value = own.update(key, value, self.layer_idx)  # (B, H, S, D)
                y, weights = self._attend(query, key, value, mask, head_mask, needs_weights)
        y = y.transpose(1, 2).reshape(*x.shape[:2], self.n_head * self.head_size)
        return self.resid_dropout(self.c_proj(y)), weights

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, T, H * D) to (B, H, T, D)."""
        return x.view(*x.shape[:2], self.n_head, self.head_size).transpose(1, 2)

    def _encoder_keys(
        self,
        encoder_hidden_states: Tensor | None,
        cache: AnyCache | None,
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, S, D) of the encoder's states, from the cache when they are there."""
        held = cache if isinstance(cache, EncoderDecoderCache) else None
        if held is not None and held.is_updated.get(self.layer_idx):
            key, value = held.cross_attention_cache[self.layer_idx]
            assert key is not None and value is not None
            S = held.cross_attention_cache.get_seq_length(self.layer_idx)
            # An offloaded cache keeps them elsewhere.
            device = self.c_proj.weight.device
            return key[:, :, :S].to(device), value[:, :, :S].to(device)
        key, value = (self._split_heads(part) for part in self.c_attn(encoder_hidden_states).chunk(2, dim=-1))
        if held is not None:
            key, value = held.cross_attention_cache.update(key, value, self.layer_idx)
            held.is_updated[self.layer_idx] = True
        return key, value

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: AttentionMask,
        head_mask: Tensor | None,
        needs_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Mix value (B, H, S, D) by the similarity of query (B, H, T, D) and key; also the weights, if needed."""
        backend = get_backend(self.config.attn_implementation or DEFAULT_BACKEND)
        dropout = self.attn_dropout.p if self.training else 0.0
        dtype = value.dtype
        masks_weights = head_mask is not None and head_mask.shape[-1] > 1
        # The kernels of flash_attn take nothing but half precision and keep scores in float32 by themselves.
        upcasts = self.config.reorder_and_upcast_attn and backend is not flash_attention_2
        with torch.autocast(query.device.type, enabled=False) if upcasts else nullcontext():
            if upcasts and dtype.itemsize < 4:
                query, key, value = query.float(), key.float(), value.float()
            weights = None
            if needs_weights or masks_weights:
                weights = attention_weights(query, key, mask, self.scaling)
                weights = weights if head_mask is None else weights * head_mask
            if weights is not None and (masks_weights or backend is eager):
                y = mix(weights.to(value.dtype), value, dropout)
            else:
                y = backend(query, key, value, mask, self.scaling, dropout)
                y = y if head_mask is None else y * head_mask  # (B, H, T or 1, 1): a factor of whole rows
        return y.to(dtype), weights.to(dtype) if weights is not None and needs_weights else None
