"""Cache: what every cache of keys and values can do; the kinds of caches are in cache.py.

B batch, H heads, S positions held, T new positions, D head size.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from gpt2kit.model.cache.layers import DynamicLayer
from gpt2kit.model.inputs import can_look_at


class Cache:
    """Keys and values of all layers: `cache[i]`, `cache.layers[i].keys`, `len(cache)` layers.

    Layers that are missing are made by `layer_class_to_replicate` as attention reaches them. With offloading,
    everything is kept in the processor's memory, and a layer is copied to the device when its turn comes.
    """

    def __init__(
        self,
        layers: Sequence[DynamicLayer] | None = None,
        layer_class_to_replicate: Callable[[], DynamicLayer] | None = None,
    ) -> None:
        """Take the layers, or what makes one; exactly one of the two."""
        if (layers is None) == (layer_class_to_replicate is None):
            raise ValueError("give layers or layer_class_to_replicate, exactly one of them")
        self.layers = list(layers or ())
        self.layer_class_to_replicate = layer_class_to_replicate

    def __repr__(self) -> str:
        return f"{type(self).__name__}(layers={self.layers})"

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, H, T, D) to a layer; return all that it holds, (B, H, S, D).

        What is returned holds until the next update. Raises ValueError for another B, H or D than before.
        """
        while len(self.layers) <= layer_idx and self.layer_class_to_replicate is not None:
            self.layers.append(self.layer_class_to_replicate())
        return self.layers[layer_idx].update(key_states, value_states)

    def early_initialization(
        self,
        batch_size: int,
        num_heads: int | Sequence[int],
        head_dim: int | Sequence[int],
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        """Take the memory now rather than at the first update; one number for all layers, or one each."""
        heads = [num_heads] * len(self.layers) if isinstance(num_heads, int) else num_heads
        sizes = [head_dim] * len(self.layers) if isinstance(head_dim, int) else head_dim
        if not len(heads) == len(sizes) == len(self.layers):
            raise ValueError(
                f"num_heads and head_dim are given for {len(heads)} and {len(sizes)} layers; "
                f"the cache has {len(self.layers)}"
            )
        for layer, H, D in zip(self.layers, heads, sizes, strict=True):
            if not layer.is_initialized:
                nothing = torch.zeros(batch_size, H, 0, D, dtype=dtype, device=device)
                layer.update(nothing, nothing)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of positions that a layer holds (S)."""
        return self.layers[layer_idx].get_seq_length() if layer_idx < len(self.layers) else 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Number of positions that there is room for, in a layer or in the roomiest; -1 without a limit."""
        layers = self.layers if layer_idx is None else self.layers[layer_idx : layer_idx + 1]
        return max((layer.get_max_length() for layer in layers), default=-1)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Length and offset of what a layer's next update with query_length positions returns."""
        if layer_idx >= len(self.layers):
            return query_length, 0
        return self.layers[layer_idx].get_mask_sizes(query_length)

    def reset(self) -> None:
        """Forget everything; a static cache keeps its memory."""
        for layer in self.layers:
            layer.reset()

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last -tokens_to_remove positions: the number is negative, or 0 for none."""
        for layer in self.layers:
            layer.crop(tokens_to_remove)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Make row i what row beam_idx[i] was; beam_idx (B,) may repeat or drop rows."""
        B = self.batch_size
        if B >= 0 and beam_idx.numel() and can_look_at(beam_idx):
            low, high = (int(bound) for bound in beam_idx.aminmax())
            if low < 0 or high >= B:
                raise ValueError(
                    f"row {low if low < 0 else high} of the cache is asked for; it holds rows 0 to {B - 1}"
                )
        for layer in self.layers:
            layer.reorder_cache(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch, by number or by a mask, in the order given."""
        rows = indices.nonzero().flatten() if indices.dtype == torch.bool else indices
        self.reorder_cache(rows)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch, copies side by side."""
        if self.batch_size >= 0:
            self.reorder_cache(torch.arange(self.batch_size).repeat_interleave(repeats))

    def fork(self) -> "Cache":
        """Return a cache that holds the same and grows on its own; nothing is copied before either grows."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.layers = [layer.fork() for layer in self.layers]
        return other

    @property
    def batch_size(self) -> int:
        """B, or -1 before the first update."""
        return self.layers[0].batch_size if self.layers else -1

    @property
    def is_initialized(self) -> bool:
        """True when every layer's shape is known."""
        return bool(self.layers) and all(layer.is_initialized for layer in self.layers)

    @property
    def is_compileable(self) -> bool:
        """True when the keys' and values' memory stays in place from call to call."""
        return bool(self.layers) and all(layer.is_compileable for layer in self.layers)

    @property
    def is_croppable(self) -> bool:
        """True when crop puts the whole cache back as it was."""
        return all(layer.is_croppable for layer in self.layers)

    @property
    def is_sliding(self) -> list[bool]:
        """For each layer whether it forgets old positions; none does."""
        return [layer.is_sliding for layer in self.layers]

    def __len__(self) -> int:
        """Number of layers held."""
        return len(self.layers)

    def __bool__(self) -> bool:
        """A cache without layers yet is a cache all the same."""
        return True

    def __getitem__(self, layer_idx: int) -> tuple[Tensor | None, Tensor | None]:
        """Keys and values of a layer."""
        layer = self.layers[layer_idx]
        return layer.keys, layer.values

    def __iter__(self) -> Iterator[tuple[Tensor | None, ...]]:
        """Go through the layers' (keys, values, sliding window), the last always None."""
        for layer in self.layers:
            yield layer.keys, layer.values, None


def checked_cache(past_key_values: Any) -> Cache:
    """Return a cache that is one; raises ValueError for the tuples of older versions and anything else."""
    if isinstance(past_key_values, Cache):
        return past_key_values
    if isinstance(past_key_values, (tuple, list)):
        raise ValueError(
            "Passing a tuple of `past_key_values` is not supported; give a Cache: "
            "DynamicCache(past_key_values) makes one of the keys and values of each layer"
        )
    raise ValueError(f"past_key_values is a {type(past_key_values).__name__}; give a Cache or None")
