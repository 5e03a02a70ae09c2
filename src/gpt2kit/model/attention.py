"""Self-attention, and the linear layer that GPT-2 checkpoints call Conv1D.

B batch, T new positions, S all positions, C channels, H heads, D head size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2kit.config import GPT2Config
from gpt2kit.model.cache import DynamicCache, RaggedCache


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
    """Causal multi-head self-attention."""

    def __init__(self, config: GPT2Config, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.n_head = config.n_head
        self.head_size = config.n_embd // config.n_head
        self.scaling = self.head_size**-0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scaling /= layer_idx + 1
        self.reorder_and_upcast_attn = config.reorder_and_upcast_attn
        self.c_attn = Conv1D(3 * config.n_embd, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)
        self.attn_dropout = nn.Dropout(config.attn_pdrop)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        cache: DynamicCache | RaggedCache | None = None,
        fused: bool = True,
    ) -> tuple[Tensor, Tensor | tuple[Tensor | None, ...] | None]:
        """Attend from x (B, T, C) to the cached positions and to itself.

        mask broadcasts to (B, H, T, S): bool, True where attention is allowed, or float, added to the scores.
        None stands for plain causality. fused chooses torch's kernel, which keeps no weights.
        Returns the output (B, T, C) and, when not fused, the weights (B, H, T, S) before dropout; those of a
        RaggedCache as one tensor (1, H, T, S) a row.
        """
        B, T, C = x.shape
        query, key, value = (
            part.view(B, T, self.n_head, self.head_size).transpose(1, 2)  # (B, H, T, D)
            for part in self.c_attn(x).split(C, dim=2)
        )
        weights: Tensor | tuple[Tensor | None, ...] | None
        if isinstance(cache, RaggedCache):
            rows = []
            for row, (start, end) in zip(cache.caches, cache.spans, strict=True):
                new = slice(start, end)
                keys, values = row.update(key[:, :, new], value[:, :, new], self.layer_idx)
                rows.append(self._attend(query[:, :, new], keys, values, mask, fused))
            y = torch.cat([row for row, _ in rows], dim=2)
            weights = tuple(row for _, row in rows)
        else:
            if cache is not None:
                key, value = cache.update(key, value, self.layer_idx)  # (B, H, S, D)
            y, weights = self._attend(query, key, value, mask, fused)
        y = y.transpose(1, 2).reshape(B, T, C)
        return self.resid_dropout(self.c_proj(y)), weights

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, fused: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Mix value (B, H, S, D) by the similarity of query (B, H, T, D) and key; also the weights used."""
        T, S = query.shape[2], key.shape[2]
        fused = fused and not self.reorder_and_upcast_attn
        is_causal = mask is None and T > 1
        if is_causal and (T != S or not fused):
            # is_causal of torch's kernel aligns the triangle at the first key; ours ends at the last.
            mask = torch.ones(T, S, dtype=torch.bool, device=query.device).tril(S - T)
            is_causal = False
        if fused:
            dropout = self.attn_dropout.p if self.training else 0.0
            y = F.scaled_dot_product_attention(
                query, key, value, mask, dropout, is_causal=is_causal, scale=self.scaling
            )
            return y, None
        weights = F.softmax(_masked(self._scores(query, key), mask), dim=-1).to(value.dtype)
        return self.attn_dropout(weights) @ value, weights

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Scaled similarities, (B, H, T, S)."""
        if not self.reorder_and_upcast_attn:
            return query @ key.transpose(2, 3) * self.scaling
        # In float32 and with the keys scaled first: half precision does not overflow.
        with torch.autocast(query.device.type, enabled=False):
            return query.float() @ (key.float() * self.scaling).transpose(2, 3)


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        # The lowest finite number rather than -inf: a row with nothing to attend to must not become NaN.
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores + mask
