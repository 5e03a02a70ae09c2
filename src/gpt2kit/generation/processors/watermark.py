"""The watermark of green tokens: which tokens are green after a text, and the bias that favours them.

Kirchenbauer et al., "A watermark for large language models" and "On the reliability of watermarks", 2023. The
lists are those of Transformers, which come of torch's random numbers, so each can detect the other's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from gpt2kit.config.watermarking import WatermarkingConfig
from gpt2kit.generation.processors.scores import Ids, Scores
from gpt2kit.generation.processors.torch_random import is_among_first, permutation

_TABLE_SIZE = 1000003  # of the hash of "selfhash"
_NUM_CANDIDATES = 40  # with "selfhash" only the first of these are looked at
_SEED_MODULUS = 2**64 - 1


def favor_green(token_ids: Sequence[int], scores: Scores, config: WatermarkingConfig) -> Scores:
    """Add config.bias to the scores of the green tokens.

    lefthash: the first int(V * greenlist_ratio) places of a permutation of the vocabulary, seeded by the last
    token. selfhash: those of the 40 highest scores that are green themselves, each seeded with itself as the
    last token. A text shorter than context_width is left alone.
    """
    if len(token_ids) < config.context_width:
        return scores
    if config.seeding_scheme == "selfhash":
        ranked = np.argsort(-scores, kind="stable")[:_NUM_CANDIDATES].tolist()
        context = list(token_ids[-config.context_width :])
        green: Sequence[int] | Ids = [
            item for item in ranked if is_green([*context, item], item, len(scores), config)
        ]
    else:
        size = _greenlist_size(len(scores), config)
        green = permutation(_seed(token_ids, config), len(scores), size)
    out: Scores = scores.copy()
    with np.errstate(over="ignore"):
        out[np.asarray(green, dtype=np.int64)] += np.float32(config.bias)
    return out


def is_green(token_ids: Sequence[int], token_id: int, vocab_size: int, config: WatermarkingConfig) -> bool:
    """Tell whether a token is on the green list that these ids seed; "selfhash" ids end with the token."""
    return is_among_first(_seed(token_ids, config), vocab_size, _greenlist_size(vocab_size, config), token_id)


def _greenlist_size(vocab_size: int, config: WatermarkingConfig) -> int:
    return int(vocab_size * config.greenlist_ratio)


def _seed(token_ids: Sequence[int], config: WatermarkingConfig) -> int:
    if config.seeding_scheme == "lefthash":
        return config.hashing_key * int(token_ids[-1]) % _SEED_MODULUS
    table = _hash_table(config.hashing_key)
    window = np.asarray(token_ids[-config.context_width :], dtype=np.int64)
    each = table[window % _TABLE_SIZE] + 1
    products = np.int64(config.hashing_key) * each * each[-1:]  # wraps around, as in torch
    return int(products.min()) % _SEED_MODULUS


@lru_cache(maxsize=2)
def _hash_table(hashing_key: int) -> Ids:
    return permutation(hashing_key, _TABLE_SIZE)
