"""Processors that forbid tokens, or leave only some."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpt2kit.errors import GenerationError
from gpt2kit.generation.processors.scores import NEG_INF, Scores, remove


def ban_repeated_ngrams(token_ids: Sequence[int], scores: Scores, size: int) -> Scores:
    """Ban every token that would complete an n-gram of `size` tokens that the sequence already holds."""
    return ban_ngrams_of(token_ids, token_ids, scores, size)


def ban_ngrams_of(source: Sequence[int], token_ids: Sequence[int], scores: Scores, size: int) -> Scores:
    """Ban every token that would complete an n-gram of `size` tokens that `source` holds.

    With the prompt as the source this is encoder_no_repeat_ngram_size of a model without an encoder.
    """
    if len(source) < size or len(token_ids) < size - 1:
        return scores
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(source, dtype=np.int64), size)
    prefix = np.asarray(token_ids[len(token_ids) + 1 - size :], dtype=np.int64)
    return remove(scores, windows[(windows[:, :-1] == prefix).all(axis=1), -1])


def ban_words(token_ids: Sequence[int], scores: Scores, bad_words_ids: Sequence[Sequence[int]]) -> Scores:
    """Ban the last token of every word whose other tokens end the sequence."""
    banned = []
    for word in bad_words_ids:
        start = len(token_ids) - len(word) + 1
        if start >= 0 and tuple(token_ids[start:]) == tuple(word[:-1]):
            banned.append(word[-1])
    return remove(scores, banned)


def ban_tokens(scores: Scores, token_ids: Sequence[int]) -> Scores:
    """Ban these tokens; ids past the vocabulary are nothing to ban."""
    return remove(scores, token_ids)


def force_tokens(scores: Scores, token_ids: Sequence[int]) -> Scores:
    """Ban all tokens but these, whose scores become 0."""
    out: Scores = np.full_like(scores, NEG_INF)
    out[np.asarray(token_ids, dtype=np.int64)] = 0.0
    return out


def allow_tokens(scores: Scores, token_ids: Sequence[int], *, must_choose: bool = True) -> Scores:
    """Ban all tokens but these, the answer of prefix_allowed_tokens_fn.

    When the other options leave none of them and must_choose is True they are allowed all the same, with score
    0. Raises GenerationError for an empty answer and for ids that are not in the vocabulary.
    """
    ids = np.asarray(token_ids, dtype=np.int64).reshape(-1)
    if len(ids) == 0:
        raise GenerationError(
            "`prefix_allowed_tokens_fn` returned an empty list: no token is left to choose; it must allow one"
        )
    if ids.min() < 0 or ids.max() >= len(scores):
        raise GenerationError(
            f"prefix_allowed_tokens_fn allowed ids from {ids.min()} to {ids.max()}, but the vocabulary has ids "
            f"0 to {len(scores) - 1}"
        )
    out: Scores = np.full_like(scores, NEG_INF)
    out[ids] = scores[ids]
    return force_tokens(scores, token_ids) if must_choose and out.max() == -np.inf else out
