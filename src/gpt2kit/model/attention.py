"""Self-attention, and the linear layer that GPT-2 checkpoints call Conv1D.

B batch, T new positions, S all positions, C channels, H heads, D head size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import GPT2Config
from .cache import DynamicCache


class Conv1D(nn.Module):
    """y = x W + b with W stored (in, out), the transpose of nn.Linear's, as on disk."""

    def __init__(self, out_features: int, in_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))

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
        cache: DynamicCache | None = None,
        fused: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from x (B, T, C) to the cached positions and to itself.

        mask broadcasts to (B, H, T, S): bool, True where attention is allowed, or float, added to the scores.
        None stands for plain causality over T new positions with nothing cached, or for T = 1.
        Returns the output (B, T, C) and, when not fused, the weights (B, H, T, S) before dropout.
        """
        B, T, C = x.shape
        query, key, value = (
            part.view(B, T, self.n_head, self.head_size).transpose(1, 2)  # (B, H, T, D)
            for part in self.c_attn(x).split(C, dim=2)
        )
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)  # (B, H, S, D)
        weights = None
        if fused and not self.reorder_and_upcast_attn:
            dropout = self.attn_dropout.p if self.training else 0.0
            is_causal = mask is None and T > 1
            y = F.scaled_dot_product_attention(
                query, key, value, mask, dropout, is_causal=is_causal, scale=self.scaling
            )
        else:
            weights = self._weights(query, key, mask).to(value.dtype)
            y = self.attn_dropout(weights) @ value
        y = y.transpose(1, 2).reshape(B, T, C)
        return self.resid_dropout(self.c_proj(y)), weights

    def _weights(self, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """Softmax of the masked scores, (B, H, T, S)."""
        T, S = query.shape[2], key.shape[2]
        if self.reorder_and_upcast_attn:
            # Scores in float32 with the keys scaled first, which keeps float16 from overflowing.
            with torch.autocast(query.device.type, enabled=False):
                scores = query.float() @ (key.float() * self.scaling).transpose(2, 3)
        else:
            scores = query @ key.transpose(2, 3) * self.scaling
        if mask is None and T > 1:
            mask = torch.ones(T, S, dtype=torch.bool, device=query.device).tril(S - T)
        if mask is not None and mask.dtype == torch.bool:
            # The lowest finite number rather than -inf: a row with nothing to attend to must not become NaN.
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        elif mask is not None:
            scores = scores + mask
        return F.softmax(scores, dim=-1)
