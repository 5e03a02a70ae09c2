"""Caches of generate(): one for each row while it runs, taken from and put back into one for the whole batch.

B rows, H heads, P positions that a given cache holds, S columns, D head size.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gpt2kit.config import GenerationConfig, GPT2Config
from gpt2kit.engine.torch import TorchEngine
from gpt2kit.engine.torch_sequence import TorchSequence
from gpt2kit.errors import GenerationError
from gpt2kit.generation import Generated
from gpt2kit.model.cache.base import Cache
from gpt2kit.model.cache.caches import DynamicCache, QuantizedCache, StaticCache
from gpt2kit.torch_generation.prompts import Prompts

# What runs the same on an engine with a cache of its own.
PLAIN = (None, "dynamic", "static")
_STATIC_NAMES = ("static", "sliding_window", "hybrid", "hybrid_chunked")
_OFFLOADED_STATIC_NAMES = ("offloaded_static", "offloaded_hybrid", "offloaded_hybrid_chunked")


def cache_factory(merged: GenerationConfig, config: GPT2Config, longest: int) -> Callable[[], Cache]:
    """Return what makes the cache that cache_implementation, cache_config and max_cache_len describe.

    longest: positions that the longest row will need. Raises GenerationError for one that there is not.
    """
    kind, settings = merged.cache_implementation, merged.cache_config
    if settings is not None and kind != "quantized":
        raise GenerationError(f"cache_config is for cache_implementation='quantized'; it is {kind!r}")
    if kind in (None, "dynamic"):
        return partial(DynamicCache, config=config)
    if kind == "offloaded":
        return partial(DynamicCache, config=config, offloading=True)
    if kind == "quantized":
        make = partial(QuantizedCache, **{"config": config, **(settings or {})})
        try:
            make()
        except TypeError as error:
            raise GenerationError(f"cache_config is {settings!r}: {error}") from None
        return make
    if kind in (*_STATIC_NAMES, *_OFFLOADED_STATIC_NAMES):
        offloading = kind in _OFFLOADED_STATIC_NAMES
        return partial(StaticCache, config, max(longest, merged.max_cache_len or 0), offloading=offloading)
    raise GenerationError(
        f"cache_implementation={kind!r} is not available; use dynamic, static, offloaded, offloaded_static or "
        "quantized (rows of any lengths share a batch without pages)"
    )


def start_sequences(engine: TorchEngine, prompts: Prompts) -> list[TorchSequence]:
    """Return a sequence for each row: with its part of a cache, embeddings to run, token types, an encoder."""
    sequences = []
    for index, ids in enumerate(prompts.ids):
        mask = prompts.mask[index]
        past_mask, new_mask = mask[: prompts.num_past], mask[prompts.num_past :]
        parts: dict[str, Any] = {"num_ids": 0}
        if prompts.past is not None:
            parts["cache"] = _row_of(prompts.past, index, past_mask)
            parts["num_ids"] = len(ids) - int(new_mask.sum())
        if prompts.embeds is not None:
            parts["embeds"] = prompts.embeds[index, new_mask.to(prompts.embeds.device)]
            parts["num_ids"] = len(ids)
        if prompts.token_type_ids is not None:
            parts["token_type_ids"] = prompts.token_type_ids[index].cpu()[mask]
        if prompts.encoder:
            parts["encoder"] = {name: tensor[index : index + 1] for name, tensor in prompts.encoder.items()}
        sequences.append(engine.start(**parts))
    return sequences


def extend(cache: Cache, prompts: Prompts, rows: Sequence[Generated]) -> Cache:
    """Append what the rows ran to a cache of the prompts' batch, which holds the first num_past columns.

    Columns that are padding, or that come after a row's end, are zeros. When there are several rows a prompt,
    the cache's rows are repeated first.
    """
    repeats = len(rows) // len(prompts.ids)
    if repeats > 1:
        cache.batch_repeat_interleave(repeats)
    held = []
    for row in rows:
        assert isinstance(row.sequence, TorchSequence)
        held.append(row.sequence.cache)
    masks = [prompts.mask[row.prompt_index] for row in rows]
    num_past_held = [int(mask[: prompts.num_past].sum()) for mask in masks]
    new_masks = [mask[prompts.num_past :] for mask in masks]
    num_run = [
        row_cache.get_seq_length() - past - int(mask.sum())
        for row_cache, past, mask in zip(held, num_past_held, new_masks, strict=True)
    ]
    num_columns = prompts.num_columns + max(num_run)
    columns = [
        torch.cat((mask.nonzero().flatten(), torch.arange(prompts.num_columns, prompts.num_columns + count)))
        for mask, count in zip(new_masks, num_run, strict=True)
    ]
    for layer_idx in range(len(held[0])):
        keys, values = (
            _joined(
                [_filled(row_cache[layer_idx][part]) for row_cache in held],
                columns,
                num_past_held,
                num_columns,
            )
            for part in (0, 1)
        )
        cache.update(keys, values, layer_idx)
    return cache


def _joined(
    tensors: list[Tensor], columns: list[Tensor], num_past_held: list[int], num_columns: int
) -> Tensor:
    """Put what rows (1, H, S, D) hold after their past into one batch (B, H, num_columns, D)."""
    _, H, _, D = tensors[0].shape
    batch = tensors[0].new_zeros(len(tensors), H, num_columns, D)
    for index, (tensor, places, past) in enumerate(zip(tensors, columns, num_past_held, strict=True)):
        batch[index, :, places.to(batch.device)] = tensor[0, :, past : past + len(places)]
    return batch


def _row_of(cache: Cache, index: int, mask: Tensor) -> DynamicCache:
    """Return a cache of one row's positions, those that its mask (P,) shows."""
    columns = mask.nonzero().flatten()
    data = []
    for keys, values in (cache[layer_idx] for layer_idx in range(len(cache))):
        if keys is None or values is None:
            data.append((keys, values))
            continue
        held = columns.to(keys.device)
        data.append((keys[index : index + 1, :, held], values[index : index + 1, :, held]))
    return DynamicCache(data)


def _filled(tensor: Tensor | None) -> Tensor:
    assert tensor is not None, "a row that has run has keys in every layer"
    return tensor
