"""Which positions see which: the caller's masks, checked, in the forms that attention's back ends read.

B batch, H heads, T new positions, which are the last ones of all S.
"""

import torch
from torch import Tensor

from gpt2kit.config import GPT2Config
from gpt2kit.model.inputs import can_look_at


class AttentionMask:
    """What T queries may see of S keys; one object serves all layers of a forward pass.

    is_causal: a position sees itself and what stands before it. padding (B, S): bool, False hides a key.
    full: stands alone, neither causality nor padding is added; broadcasts to (B, H, T, S), bool, True to see,
    or float, added to the scores.
    """

    def __init__(self, *, is_causal: bool, padding: Tensor | None = None, full: Tensor | None = None) -> None:
        self.is_causal = is_causal and full is None
        self.padding = padding
        self.full = full
        self._dense: Tensor | None = None

    def hides_future_only(self, T: int) -> bool:
        """Tell whether plain causality is all there is, and there is a future to hide."""
        return self.is_causal and self.padding is None and T > 1

    def dense(self, T: int, S: int, device: torch.device) -> Tensor | None:
        """Give the mask as one tensor that broadcasts to (B, H, T, S), or None when everything is seen.

        device: the layer's, which may be another than that of the layer before.
        """
        if self.full is not None:
            return self.full.to(device)
        if self._dense is None or self._dense.shape[-2:] not in ((T, S), (1, S)):
            padding = None if self.padding is None else self.padding[:, None, None, :]  # (B, 1, 1, S)
            if self.is_causal and T > 1:
                causal = torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)
                self._dense = causal if padding is None else causal & padding.to(device)
            else:
                self._dense = padding
        return None if self._dense is None else self._dense.to(device)


def causal_mask(
    attention_mask: Tensor | None, B: int, T: int, S: int, config: GPT2Config, like: Tensor
) -> AttentionMask:
    """Combine causality with the caller's attention_mask for self-attention.

    attention_mask: (B, S) or any shape that flattens to it, nonzero to see; or 4-D, see _checked_full. like:
    the hidden states, whose device and dtype count. Raises ValueError for a mask that does not fit.
    """
    if attention_mask is None:
        return AttentionMask(is_causal=True)
    if attention_mask.dim() == 4:
        return AttentionMask(
            is_causal=False, full=_checked_full(attention_mask, "attention_mask", B, T, S, config, like)
        )
    if attention_mask.numel() != B * S:
        raise ValueError(
            f"attention_mask has the shape {tuple(attention_mask.shape)}; it must cover {B} rows of {S} "
            f"positions, of which {S - T} are cached"
        )
    return AttentionMask(is_causal=True, padding=_padding(attention_mask.reshape(B, S), like))


def cross_mask(
    encoder_attention_mask: Tensor | None, B: int, T: int, S: int, config: GPT2Config, like: Tensor
) -> AttentionMask:
    """Turn the caller's encoder_attention_mask, (B, S) or 4-D, into the mask of cross-attention.

    Raises ValueError for a mask that does not fit.
    """
    if encoder_attention_mask is None:
        return AttentionMask(is_causal=False)
    name = "encoder_attention_mask"
    if encoder_attention_mask.dim() == 4:
        return AttentionMask(
            is_causal=False, full=_checked_full(encoder_attention_mask, name, B, T, S, config, like)
        )
    if tuple(encoder_attention_mask.shape) != (B, S):
        raise ValueError(
            f"{name} has the shape {tuple(encoder_attention_mask.shape)}; ({B}, {S}) is needed, or 4 dimensions"
        )
    return AttentionMask(is_causal=False, padding=_padding(encoder_attention_mask, like))


def _padding(mask: Tensor, like: Tensor) -> Tensor | None:
    """Give a 2-D mask as bool, or None when it hides nothing: then the fastest kernels run."""
    if can_look_at(mask) and bool(mask.all()):
        return None
    return mask.to(like.device, torch.bool)


def _checked_full(
    mask: Tensor, name: str, B: int, T: int, S: int, config: GPT2Config, like: Tensor
) -> Tensor:
    """Check a mask of 4 dimensions, (B or 1, H or 1, T or 1, S): bool to allow, or float to add."""
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise ValueError(
            f"{name} has 4 dimensions and is {mask.dtype}; give bool, True to see, or float to add"
        )
    rows, heads, queries, keys = mask.shape
    n_head = 1 if config.pruned_heads else config.n_head
    if rows not in (1, B) or heads not in (1, n_head) or queries not in (1, T) or keys != S:
        raise ValueError(f"{name} has the shape {tuple(mask.shape)}; ({B}, 1, {T}, {S}) is needed")
    mask = mask.to(like.device)
    if mask.dtype == torch.bool:
        return mask
    # Finite, also in half precision: a row with nothing to see must not become NaN.
    return mask.clamp(min=torch.finfo(like.dtype).min).to(like.dtype)
