"""The keys and values that attention has already seen.

DynamicCache holds one batch of equally long rows. RaggedCache puts the caches of unequal rows side by side.
"""

from itertools import pairwise

import torch
from torch import Tensor


class DynamicCache:
    """Keys and values of every layer, (B, H, S, D) each, growing at the end.

    Storage doubles when it is full, so appending one position costs O(1) amortised instead of a copy of all
    before it. While autograd records, positions are concatenated instead, because an earlier step's backward
    needs its keys unchanged. Returned tensors are views that hold until the next update.
    """

    def __init__(self) -> None:
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._lengths: list[int] = []
        # Positions that there is storage for; 0 when the tensors are not ours to write to.
        self._capacities: list[int] = []

    def update(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Append key and value (B, H, T, D) to a layer; return all of its keys and values (B, H, S, D).

        Layers come in order on the first pass.
        """
        if layer_idx == len(self._keys):
            self._keys.append(key[:, :, :0])
            self._values.append(value[:, :, :0])
            self._lengths.append(0)
            self._capacities.append(0)
        start = self._lengths[layer_idx]
        end = start + key.shape[2]
        held_key, held_value = self._keys[layer_idx], self._values[layer_idx]
        if torch.is_grad_enabled() and (key.requires_grad or held_key.requires_grad):
            held_key = torch.cat((held_key[:, :, :start], key), dim=2) if start else key
            held_value = torch.cat((held_value[:, :, :start], value), dim=2) if start else value
            self._capacities[layer_idx] = 0
        else:
            if end > self._capacities[layer_idx]:
                capacity = max(end, 2 * start)
                held_key = _grow(held_key, start, capacity)
                held_value = _grow(held_value, start, capacity)
                self._capacities[layer_idx] = capacity
            held_key[:, :, start:end] = key
            held_value[:, :, start:end] = value
        self._keys[layer_idx], self._values[layer_idx] = held_key, held_value
        self._lengths[layer_idx] = end
        return held_key[:, :, :end], held_value[:, :, :end]

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
        other._capacities = list(self._lengths)
        return other

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Make row i what row beam_idx[i] was; beam_idx (B,) may repeat or drop rows."""
        self._keys = [k.index_select(0, beam_idx.to(k.device)) for k in self._keys]
        self._values = [v.index_select(0, beam_idx.to(v.device)) for v in self._values]
        self._capacities = [k.shape[2] for k in self._keys]

    def reset(self) -> None:
        """Forget everything."""
        self._keys, self._values, self._lengths, self._capacities = [], [], [], []

    def __len__(self) -> int:
        """Number of layers held."""
        return len(self._keys)

    def __getitem__(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, S, D) of a layer."""
        length = self._lengths[layer_idx]
        return self._keys[layer_idx][:, :, :length], self._values[layer_idx][:, :, :length]


class EncoderDecoderCache:
    """The cache of a text beside the keys and values of an encoder's states, which are computed only once.

    is_updated: for each layer, whether its cross-attention has been put into cross_attention_cache.
    """

    def __init__(self, self_attention_cache: DynamicCache, cross_attention_cache: DynamicCache) -> None:
        self.self_attention_cache = self_attention_cache
        self.cross_attention_cache = cross_attention_cache
        self.is_updated = {i: True for i in range(len(cross_attention_cache))}

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of the text's positions held (S)."""
        return self.self_attention_cache.get_seq_length(layer_idx)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Make row i what row beam_idx[i] was, in both caches."""
        self.self_attention_cache.reorder_cache(beam_idx)
        self.cross_attention_cache.reorder_cache(beam_idx)

    def reset(self) -> None:
        """Forget everything."""
        self.self_attention_cache.reset()
        self.cross_attention_cache.reset()
        self.is_updated = {}


class RaggedCache:
    """The caches of rows of any lengths, whose new positions stand end to end on one time axis, (1, sum T).

    Everything but attention works on positions one by one, so the rows share it; attention visits them in
    turn. There is no padding, and no row can see another.
    """

    def __init__(self, caches: list[DynamicCache], num_new: list[int]) -> None:
        """caches: one a row, each with batch size 1. num_new: how many new positions each row brings."""
        self.caches = caches
        self.pasts = [cache.get_seq_length() for cache in caches]
        bounds = [0]
        for count in num_new:
            bounds.append(bounds[-1] + count)
        self.spans = list(pairwise(bounds))

    def position_ids(self, device: torch.device) -> Tensor:
        """Positions of the new tokens, (1, sum T)."""
        spans = zip(self.pasts, self.spans, strict=True)
        return torch.cat([torch.arange(past, past + end - start) for past, (start, end) in spans])[None].to(
            device
        )

    def get_seq_length(self) -> int:
        raise ValueError("rows of a RaggedCache differ in length; give position_ids")


def _grow(held: Tensor, length: int, capacity: int) -> Tensor:
    B, H, _, D = held.shape
    grown = held.new_empty(B, H, capacity, D)
    grown[:, :, :length] = held[:, :, :length]
    return grown
