"""EncoderDecoderCache: the caches of a model that also attends to an encoder's output."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from gpt2kit.model.cache import Cache, DynamicCache
from gpt2kit.model.cache_layers import DynamicLayer


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
