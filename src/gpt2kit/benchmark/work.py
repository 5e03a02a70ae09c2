"""What a token takes at least: bytes from memory and operations, a multiplication and an addition being two.

Only what no implementation can leave out is counted: every matrix once a pass, the keys and values of the tokens
that are attended to, and no layer norms, activations or additions of bias, which are less than 1 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from gpt2kit.config import GPT2Config

# Of one number of a key or a value, and of the scale that comes with those of a head.
_CACHE_BYTES = {"float32": (4, 0), "bfloat16": (2, 0), "int8": (1, 4)}


@dataclass(frozen=True)
class Work:
    """Bytes read and operations done, in all or for a token."""

    read_bytes: float
    operations: float

    def __truediv__(self, tokens: int) -> Work:
        return Work(self.read_bytes / tokens, self.operations / tokens)


def prefill_work(config: GPT2Config, weights: Mapping[str, npt.NDArray[Any]], tokens: int) -> Work:
    """Return the work of one prompt of `tokens` tokens, with the logits of the last one only."""
    pairs = tokens * (tokens + 1) // 2  # of a token and one that it attends to
    operations = 2 * (tokens * _block_size(config) + _head_size(config)) + pairs * _pair_operations(config)
    return Work(streamed_bytes(weights), operations)


def decode_work(
    config: GPT2Config,
    weights: Mapping[str, npt.NDArray[Any]],
    past: float,
    batch: int = 1,
    kv_cache_dtype: str = "float32",
    head_copy_bytes: int = 0,
) -> Work:
    """Return the work of one step, `batch` tokens of as many rows, after `past` cached ones in each (a mean).

    head_copy_bytes: of the copy of the head that is read in its place, if one is; the few rows beside it do not count.
    """
    number_bytes, scale_bytes = _CACHE_BYTES[kv_cache_dtype]
    cached = 2 * config.n_layer * (config.n_embd * number_bytes + config.n_head * scale_bytes) * past
    operations = 2 * (_block_size(config) + _head_size(config)) + (past + 1) * _pair_operations(config)
    read_bytes = streamed_bytes(weights) + batch * cached
    if head_copy_bytes:
        read_bytes += head_copy_bytes - weights[_head_name(weights)].nbytes
    return Work(read_bytes, batch * operations)


def streamed(weights: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """Return the weights that every token reads in full: all but the embeddings, of which it reads a row.

    A head that is tied to the token embeddings reads them in full.
    """
    rows_only = {"wpe.weight", "wte.weight"} - {_head_name(weights)}
    return [array for name, array in weights.items() if name not in rows_only]


def streamed_bytes(weights: Mapping[str, npt.NDArray[Any]]) -> int:
    """Return the size of streamed(weights)."""
    return sum(array.nbytes for array in streamed(weights))


def _block_size(config: GPT2Config) -> int:
    """Return how many weights the matrices of all blocks have: c_attn, attn.c_proj, c_fc and mlp.c_proj."""
    n_inner = config.n_inner if config.n_inner is not None else 4 * config.n_embd
    return config.n_layer * config.n_embd * (4 * config.n_embd + 2 * n_inner)


def _head_name(weights: Mapping[str, npt.NDArray[Any]]) -> str:
    return "lm_head.weight" if "lm_head.weight" in weights else "wte.weight"


def _head_size(config: GPT2Config) -> int:
    return config.vocab_size * config.n_embd


def _pair_operations(config: GPT2Config) -> int:
    """Return the operations of attending to one token: a product with its key, one with its value."""
    return 4 * config.n_layer * config.n_embd
