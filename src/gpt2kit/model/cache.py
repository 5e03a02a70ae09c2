"""DynamicCache: the keys and values that attention has already seen."""

import torch
from torch import Tensor


class DynamicCache:
    """Keys and values of every layer, (B, H, S, D) each, growing at the end.

    Storage doubles when it is full, so appending one position costs O(1) amortised instead of a copy of the
    whole cache. While autograd records, positions are concatenated instead, because an earlier step's backward
    needs its keys unchanged. Returned tensors are views that hold until the next update.
    """

    def __init__(self) -> None:
        self._keys: list[Tensor] = []  # (B, H, capacity, D)
        self._values: list[Tensor] = []
        self._lengths: list[int] = []

    def update(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Append key and value (B, H, T, D) to a layer; return all of its keys and values (B, H, S, D)."""
        if layer_idx == len(self._keys):
            self._keys.append(key)
            self._values.append(value)
            self._lengths.append(key.shape[2])
            return key, value
        start = self._lengths[layer_idx]
        end = start + key.shape[2]
        if torch.is_grad_enabled() and (key.requires_grad or self._keys[layer_idx].requires_grad):
            self._keys[layer_idx] = torch.cat((self._keys[layer_idx][:, :, :start], key), dim=2)
            self._values[layer_idx] = torch.cat((self._values[layer_idx][:, :, :start], value), dim=2)
        else:
            self._keys[layer_idx] = _append(self._keys[layer_idx], key, start, end)
            self._values[layer_idx] = _append(self._values[layer_idx], value, start, end)
        self._lengths[layer_idx] = end
        return self._keys[layer_idx][:, :, :end], self._values[layer_idx][:, :, :end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of positions held (S)."""
        return self._lengths[layer_idx] if self._lengths else 0

    def truncate(self, length: int) -> None:
        """Keep the first `length` positions; a longer length than the cache's changes nothing."""
        self._lengths = [min(length, held) for held in self._lengths]

    def clone(self) -> "DynamicCache":
        """Copy the cache; the copy and the original grow apart."""
        other = DynamicCache()
        other._keys = [k[:, :, :n].clone() for k, n in zip(self._keys, self._lengths, strict=True)]
        other._values = [v[:, :, :n].clone() for v, n in zip(self._values, self._lengths, strict=True)]
        other._lengths = list(self._lengths)
        return other

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Make row i what row beam_idx[i] was; beam_idx (B,) may repeat or drop rows."""
        self._keys = [k.index_select(0, beam_idx.to(k.device)) for k in self._keys]
        self._values = [v.index_select(0, beam_idx.to(v.device)) for v in self._values]

    def reset(self) -> None:
        """Forget everything."""
        self._keys, self._values, self._lengths = [], [], []

    def __len__(self) -> int:
        """Number of layers held."""
        return len(self._keys)

    def __getitem__(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, S, D) of a layer."""
        length = self._lengths[layer_idx]
        return self._keys[layer_idx][:, :, :length], self._values[layer_idx][:, :, :length]


def _append(held: Tensor, new: Tensor, start: int, end: int) -> Tensor:
    """Write new at [start, end) of held's positions, in place if there is room."""
    B, H, capacity, D = held.shape
    # A tensor that came straight from the attention layer is a view of its projection: never write there.
    if end > capacity or held.stride(2) != D:
        grown = held.new_empty(B, H, max(end, 2 * start, 16), D)
        grown[:, :, :start] = held[:, :, :start]
        held = grown
    held[:, :, start:end] = new
    return held
