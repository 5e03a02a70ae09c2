"""SynthID: a watermark by a tournament among the tokens (Dathathri et al., Nature 634, 2024).

Every key gives every candidate a coin flip, its g-value, by a hash of the last ngram_len - 1 new tokens, the
candidate and the key. In each round a candidate's probability grows if its flip is 1. The numbers are those of
Transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from gpt2kit.config.watermarking import SynthIDTextWatermarkingConfig
from gpt2kit.generation.processors.scores import Ids, Scores, weights
from gpt2kit.generation.processors.torch_random import random_bits

_MULTIPLIER = np.uint64(6364136223846793005)
_INCREMENT = np.uint64(1)
_Words = npt.NDArray[np.uint64]


def play_tournament(new_ids: Sequence[int], scores: Scores, config: SynthIDTextWatermarkingConfig) -> Scores:
    """Return log probabilities (V,) after a round for each key; float64 inside, -inf becomes the least float32.

    new_ids: the tokens generated so far, without the prompt; before the first there are zeros. A context that
    one of the last context_history_size calls had is not watermarked again: the scores stay as they are.
    """
    if config.debug_mode:
        scores = np.ones_like(scores)
    width = config.ngram_len - 1
    num_calls = len(new_ids) + 1
    first_call = config.ngram_len if config.skip_first_ngram_calls else 1
    if num_calls < first_call:
        return scores
    padded = np.concatenate([np.zeros(width, dtype=np.int64), np.asarray(new_ids, dtype=np.int64)])
    contexts = np.lib.stride_tricks.sliding_window_view(padded, width)[first_call - 1 :]
    context_hashes = _hash(contexts)
    history = np.zeros(
        config.context_history_size, dtype=np.uint64
    )  # unused places hold 0 in Transformers too
    past = context_hashes[:-1][-config.context_history_size :]
    history[: len(past)] = past
    if context_hashes[-1] in history:
        return scores
    candidates = np.arange(len(scores), dtype=np.int64)[:, None]
    g_values = _flips(_hash(candidates, context_hashes[-1]), config)
    probabilities = weights(scores)
    probabilities /= probabilities.sum()
    for column in g_values.T.astype(np.float64):
        mass = float((column * probabilities).sum())
        probabilities *= column + (1 - mass)
    with np.errstate(divide="ignore", invalid="ignore"):  # rounding leaves some a little below 0
        logs = np.log(probabilities)
    least = np.finfo(np.float32).min
    return np.where(np.isfinite(logs), logs, least).astype(np.float32)


def compute_g_values(token_ids: Sequence[int], config: SynthIDTextWatermarkingConfig) -> Ids:
    """Return the g-values (T - ngram_len + 1, len(keys)) of every token with a whole n-gram."""
    ngrams = np.lib.stride_tricks.sliding_window_view(np.asarray(token_ids, dtype=np.int64), config.ngram_len)
    return _flips(_hash(ngrams), config)


def context_is_new(token_ids: Sequence[int], config: SynthIDTextWatermarkingConfig) -> npt.NDArray[np.bool_]:
    """Tell for each of the T - ngram_len + 1 contexts whether it does not repeat one shortly before it."""
    ids = np.asarray(token_ids, dtype=np.int64)[:-1]
    hashes = _hash(np.lib.stride_tricks.sliding_window_view(ids, config.ngram_len - 1))
    size = config.context_history_size
    is_new = np.ones(len(hashes), dtype=bool)
    for place, value in enumerate(hashes):
        past = hashes[max(0, place - size) : place]
        is_new[place] = value not in past and not (value == 0 and place < size)
    return is_new


def _hash(data: Ids, start: np.uint64 = _INCREMENT) -> _Words:
    """Hash the rows of (N, K): h = (h + x) * multiplier + 1 for each x, modulo 2**64."""
    result = np.full(data.shape[0], start, dtype=np.uint64)
    for column in data.astype(np.uint64).T:
        result = (result + column) * _MULTIPLIER + _INCREMENT
    return result


def _flips(hashes: _Words, config: SynthIDTextWatermarkingConfig) -> Ids:
    """Return the coin flips (N, len(keys)) of hashed n-grams."""
    table = _table(config.sampling_table_seed, config.sampling_table_size)
    keys = np.asarray(config.keys, dtype=np.int64).astype(np.uint64)
    keyed = (hashes[:, None] + keys[None, :]) * _MULTIPLIER + _INCREMENT
    flips: Ids = table[keyed.view(np.int64) % len(table)]
    return flips


@lru_cache(maxsize=2)
def _table(seed: int, size: int) -> Ids:
    return random_bits(seed, size)
