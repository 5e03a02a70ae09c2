"""The candidates of one step of a beam search: which (beam, token) pairs are looked at, best or drawn.

Totals are float32 (n, V), one row a live beam: its score plus the processed log-probability of each token. A
token with -inf is no candidate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpt2kit.generation.processors.scores import Ids, Scores


class Candidate(NamedTuple):
    """A live beam (its index), a token to append to it, and the score of the two together."""

    beam: int
    token_id: int
    total: np.float32


def best(totals: Scores, count: int) -> list[Candidate]:
    """Return the `count` highest totals, descending; of equal ones the lowest (beam, token) comes first."""
    flat = totals.ravel()
    left = np.flatnonzero(flat >= _nth_highest(flat, count))
    left = left[flat[left] > -np.inf]
    order = left[np.argsort(-flat[left], kind="stable")][:count]
    return _candidates(totals, order)


def draw(totals: Scores, coins: Sequence[float]) -> list[Candidate]:
    """Draw one candidate a coin, without replacement, each from softmax(totals) over those that are left.

    coins are uniform in [0, 1). Weights exp(total - max) are float64 and added over ascending (beam, token).
    Draws end when no candidate is left.
    """
    flat = totals.ravel()
    left = np.flatnonzero(flat > -np.inf)
    if len(left) == 0:
        return []
    weights = np.exp(flat[left].astype(np.float64) - float(flat.max()))
    left = left[weights > 0.0]
    weights = weights[weights > 0.0]
    ends = np.cumsum(weights)  # candidate i covers [ends[i] - weights[i], ends[i])
    drawn: list[int] = []
    gone: list[int] = []  # drawn, ascending
    remaining = float(ends[-1])
    for coin in coins[: len(left)]:
        target = coin * remaining
        for index in gone:
            if target < ends[index] - weights[index]:
                break
            target += weights[index]
        chosen = min(int(np.searchsorted(ends, target, side="right")), len(left) - 1)
        chosen = _nearest_left(chosen, gone, len(left))
        drawn.append(chosen)
        gone = sorted([*gone, chosen])
        remaining -= float(weights[chosen])
    return _candidates(totals, left[drawn])


def _candidates(totals: Scores, flat_indices: Ids) -> list[Candidate]:
    beams, token_ids = np.divmod(flat_indices, totals.shape[1])
    chosen = totals.ravel()[flat_indices]
    return [
        Candidate(int(beam), int(token_id), total)
        for beam, token_id, total in zip(beams, token_ids, chosen, strict=True)
    ]


def _nth_highest(flat: Scores, count: int) -> float:
    if count >= len(flat):
        return -math.inf
    return float(np.partition(flat, len(flat) - count)[len(flat) - count])


def _nearest_left(index: int, gone: Sequence[int], num: int) -> int:
    """Return the first candidate from `index` on, wrapping, that is not gone; rounding may hit one that is."""
    while index in gone:
        index = (index + 1) % num
    return index
