"""The keys and values that attention has already seen, for all layers of a model.

A Cache (base.py) is a list of layers (layers.py, quantized.py). DynamicCache grows, StaticCache
takes its memory at once, QuantizedCache keeps old positions in few bits; EncoderDecoderCache pairs a cache for
self-attention with one for cross-attention. RaggedCache puts caches of unequal rows side by side.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor

from gpt2kit.config import GPT2Config
from gpt2kit.model.cache.base import Cache
from gpt2kit.model.cache.layers import DynamicLayer, StaticLayer
from gpt2kit.model.cache.quantized import QuantizedLayer


class DynamicCache(Cache):
    """A cache that grows with the text; the one that a model makes when none is given."""

    def __init__(
        self,
        ddp_cache_data: Iterable[Sequence[Tensor | None]] | None = None,
        config: GPT2Config | None = None,
        offloading: bool = False,
        offload_only_non_sliding: bool = False,
    ) -> None:
        """Make an empty cache, or one that holds ddp_cache_data: (keys, values) of each layer.

        config: make all of its layers at once. offload_only_non_sliding changes nothing, as no layer slides.
        """
        make = partial(DynamicLayer, offloading=offloading)
        super().__init__(layer_class_to_replicate=make)
        self.layers = [make() for _ in range(config.n_layer if config is not None else 0)]
        for layer_idx, (keys, values, *_) in enumerate(ddp_cache_data or ()):
            if keys is not None and values is not None:
                self.update(keys, values, layer_idx)
            elif layer_idx == len(self.layers):
                self.layers.append(make())


class StaticCache(Cache):
    """A cache that takes memory for max_cache_len positions at once and reuses it after reset().

    Attention runs over the positions filled only. A text that is longer than planned takes more memory.
    """

    def __init__(
        self,
        config: GPT2Config,
        max_cache_len: int,
        offloading: bool = False,
        offload_only_non_sliding: bool = True,
    ) -> None:
        """max_cache_len: positions to plan for. offload_only_non_sliding changes nothing: no layer slides."""
        super().__init__(layers=[StaticLayer(max_cache_len, offloading) for _ in range(config.n_layer)])

    @property
    def max_cache_len(self) -> int:
        """Number of positions that there is room for."""
        return self.get_max_length()


class QuantizedCache(Cache):
    """A cache that keeps all but the newest positions in 8 or 4 bits; see cache_quantized.py."""

    def __init__(
        self,
        backend: str = "gpt2kit",
        config: GPT2Config | None = None,
        nbits: int | None = None,
        axis_key: int | None = None,
        axis_value: int | None = None,
        q_group_size: int | None = None,
        residual_length: int | None = None,
    ) -> None:
        """Choose how: nbits 4 (default) or 8, in groups of q_group_size (64) numbers.

        residual_length: how many of the newest positions, at least, stay as they are (128).
        backend: "gpt2kit"; "quanto" and "hqq" are taken too, and done by the same code.
        axis_key, axis_value: only 0, how other back ends call it to leave the layout of groups alone.
        config: make all layers at once.
        Raises ValueError for anything else.
        """
        if backend not in ("gpt2kit", "quanto", "hqq"):
            raise ValueError(f"Unknown quantization backend `{backend}`; use gpt2kit, quanto or hqq")
        nbits = 4 if nbits is None else nbits
        if nbits not in (4, 8):
            raise ValueError(f"nbits is {nbits!r}; a quantized cache has 4 or 8")
        for name, axis in (("axis_key", axis_key), ("axis_value", axis_value)):
            if axis not in (None, 0):
                raise ValueError(f"{name} is {axis!r}; it must be 0: how groups lie is not a choice here")
        group_size = 64 if q_group_size is None else q_group_size
        if group_size < 1:
            raise ValueError(f"q_group_size is {group_size}; it must be at least 1")
        num_exact = 128 if residual_length is None else residual_length
        if num_exact < 0:
            raise ValueError(f"residual_length is {num_exact}; it must be at least 0")
        make = partial(QuantizedLayer, nbits, group_size, num_exact)
        super().__init__(layer_class_to_replicate=make)
        self.layers = [make() for _ in range(config.n_layer if config is not None else 0)]


class EncoderDecoderCache(Cache):
    """A cache for self-attention, which the methods are about, and one for attention to an encoder.

    is_updated[layer_idx]: whether the second holds the encoder's keys and values of that layer already.
    """

    def __init__(self, *caches: Any) -> None:
        """Take the two caches, or one iterable with the four tensors of each layer.

        Those are the keys and values of self-attention, then of cross-attention; six, with the sliding window
        that goes with each pair, are taken too.
        """
        if len(caches) == 1:
            layers = [tuple(layer) for layer in caches[0]]
            if any(len(layer) not in (4, 6) for layer in layers):
                raise ValueError(f"a layer has 4 or 6 tensors; got {[len(layer) for layer in layers]}")
            caches = (
                DynamicCache([layer[:2] for layer in layers]),
                DynamicCache([layer[len(layer) // 2 :][:2] for layer in layers]),
            )
        if len(caches) != 2:
            raise ValueError(
                f"give a self-attention and a cross-attention cache; got {len(caches)} arguments"
            )
        if not all(isinstance(cache, Cache) for cache in caches):
            raise TypeError(f"a cache is needed twice; got {[type(cache).__name__ for cache in caches]}")
        self.self_attention_cache: Cache = caches[0]
        self.cross_attention_cache: Cache = caches[1]
        self.is_updated = {
            layer_idx: layer.get_seq_length() > 0
            for layer_idx, layer in enumerate(self.cross_attention_cache.layers)
        }

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(self_attention_cache={self.self_attention_cache}, "
            f"cross_attention_cache={self.cross_attention_cache})"
        )

    @property
    def layers(self) -> list[DynamicLayer]:  # type: ignore[override]  # the self-attention cache holds them
        """The layers of the self-attention cache."""
        return self.self_attention_cache.layers

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Append to a layer of the self-attention cache; see Cache.update."""
        return self.self_attention_cache.update(key_states, value_states, layer_idx)

    def reset(self) -> None:
        """Forget everything, the encoder too."""
        self.self_attention_cache.reset()
        self.cross_attention_cache.reset()
        self.is_updated = dict.fromkeys(self.is_updated, False)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Make row i of both caches what row beam_idx[i] was."""
        self.self_attention_cache.reorder_cache(beam_idx)
        self.cross_attention_cache.reorder_cache(beam_idx)

    def fork(self) -> "EncoderDecoderCache":
        """Return a pair that holds the same and grows on its own."""
        other = EncoderDecoderCache(self.self_attention_cache.fork(), self.cross_attention_cache.fork())
        other.is_updated = dict(self.is_updated)
        return other

    def __iter__(self) -> Iterator[tuple[Tensor | None, ...]]:
        """Go through the layers' six: keys, values, None of self-attention, then of cross-attention."""
        for own, cross in zip(self.self_attention_cache, self.cross_attention_cache, strict=False):
            yield own + cross


class RaggedCache:
    """The caches of rows of any lengths, whose new positions stand end to end on one time axis, (1, sum T).

    Everything but attention works on positions one by one, so the rows share it; attention visits them in
    turn. There is no padding, and no row can see another.
    """

    def __init__(self, caches: Sequence[Cache], num_new: list[int]) -> None:
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


# What a forward pass takes as past_key_values.
AnyCache: TypeAlias = Cache | RaggedCache
