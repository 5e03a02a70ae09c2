"""Processors that raise or lower the scores of some tokens. Divisions, products and sums are float32."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gpt2kit.generation.processors.scores import Scores, log_softmax

_LARGEST = float(np.finfo(np.float32).max)
# ((token ids), bias) for each sequence
SequenceBias = Sequence[tuple[tuple[int, ...], float]]


def penalize_repetition(token_ids: Sequence[int], scores: Scores, penalty: float) -> Scores:
    """Divide positive scores and multiply negative ones of all tokens seen so far by `penalty`, once each."""
    seen = np.unique(np.asarray(token_ids, dtype=np.int64))
    seen = seen[seen < len(scores)]
    factor = np.float32(penalty)
    out: Scores = scores.copy()
    old = scores[seen]
    with np.errstate(over="ignore"):
        out[seen] = np.where(old < 0, old * factor, old / factor)
    return out


def favor_prompt(prompt: Sequence[int], scores: Scores, penalty: float) -> Scores:
    """Do the reverse of penalize_repetition for the tokens of the prompt: with a penalty over 1 they gain.

    Transformers calls it encoder_repetition_penalty; a model without an encoder takes the prompt for its input.
    """
    return penalize_repetition(prompt, scores, 1.0 / penalty)


def bias_sequences(token_ids: Sequence[int], scores: Scores, biases: SequenceBias) -> Scores:
    """Add a bias to the last token of every sequence whose other tokens end the text.

    Biases of single tokens come first, the last one of a token holds; then those of longer sequences, shorter
    ones in the order of their lengths' first occurrence, are added one by one in float32.
    """
    bias = np.zeros(len(scores), dtype=np.float32)
    for ids, amount in biases:
        if len(ids) == 1:
            bias[ids[0]] = amount
    lengths = dict.fromkeys(len(ids) for ids, _ in biases if len(ids) > 1)
    for length in lengths:
        if length - 1 > len(token_ids):
            continue
        end = tuple(token_ids[len(token_ids) - length + 1 :])
        for ids, amount in biases:
            if len(ids) == length and ids[:-1] == end:
                bias[ids[-1]] += np.float32(amount)
    with np.errstate(over="ignore"):
        return scores + bias


def decay_length(scores: Scores, eos_token_ids: Sequence[int], factor: float, num_past: int) -> Scores:
    """Add |score| * (factor ** num_past - 1) to the end tokens, but to none that is banned.

    A banned one is not finite, or the least float32 after make_finite.
    num_past: tokens past the start of the decay, at least 1. The amount is at most the largest float32.
    """
    try:
        growth = min(math.pow(factor, num_past) - 1.0, _LARGEST)
    except OverflowError:
        growth = _LARGEST
    ids = np.unique(np.asarray([token_id for token_id in eos_token_ids if token_id < len(scores)], np.int64))
    out: Scores = scores.copy()
    old = scores[ids]
    with np.errstate(over="ignore", invalid="ignore"):
        out[ids] = np.where(np.abs(old) < _LARGEST, old + np.abs(old) * np.float32(growth), old)
    return out


def make_finite(scores: Scores) -> Scores:
    """Put 0 for NaN and the largest and smallest float32 for the infinities."""
    limits = np.finfo(np.float32)
    out: Scores = np.nan_to_num(scores, nan=0.0, posinf=limits.max, neginf=limits.min)
    return out


def normalize(scores: Scores) -> Scores:
    """Return log p of every token, rounded to float32; scores without a finite maximum stay as they are."""
    if not np.isfinite(scores.max()):
        return scores
    return log_softmax(scores).astype(np.float32)


def mix_guidance(scores: Scores, unconditional: Scores, scale: float) -> Scores:
    """Return u + scale * (c - u), with c and u the log p with and without the prompt.

    Classifier-free guidance (Sanchez et al., "Stay on topic with classifier-free guidance", 2023), in float64,
    rounded once.
    """
    conditioned, free = log_softmax(scores), log_softmax(unconditional)
    with np.errstate(over="ignore"):
        return (scale * (conditioned - free) + free).astype(np.float32)
