"""The types of scores and processors, and the few operations that all processors are made of.

A probability is float64: weight[i] = exp(float64(scores[i]) - float64(max)), total = sum of the weights one by
one over ascending ids, p[i] = weight[i] / total. A removed token has score -inf and weight 0. A sort puts equal
values in ascending order of id, and a cumulative sum runs one by one in that order. The native loop does the
same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
# (ids of the whole sequence, prompt included; scores (V,)) -> scores (V,)
LogitsProcessor = Callable[[list[int], Scores], Scores]

NEG_INF = np.float32(-np.inf)


def remove(scores: Scores, token_ids: Sequence[int] | Ids) -> Scores:
    """Return the scores with these tokens at -inf; ids past the vocabulary are nothing to remove."""
    ids = np.asarray(token_ids, dtype=np.int64)
    ids = ids[ids < len(scores)]
    if len(ids) == 0:
        return scores
    out: Scores = scores.copy()
    out[ids] = NEG_INF
    return out


def keep(scores: Scores, token_ids: Sequence[int] | Ids) -> Scores:
    """Return the scores with all other tokens at -inf."""
    ids = np.asarray(token_ids, dtype=np.int64)
    out: Scores = np.full_like(scores, NEG_INF)
    out[ids] = scores[ids]
    return out


def weights(scores: Scores) -> Floats:
    """Return exp(score - highest) of every token."""
    wide = scores.astype(np.float64)
    result: Floats = np.exp(wide - wide.max())
    return result


def distribution(scores: Scores) -> tuple[Ids, Floats, Floats]:
    """Return the ids that are left, ascending, with their p and log p; zeros would change no sum."""
    candidates = np.flatnonzero(scores > -np.inf)
    shifted = scores[candidates].astype(np.float64) - float(scores.max())
    unnormalized = np.exp(shifted)
    total = np.cumsum(unnormalized)[-1]
    return candidates, unnormalized / total, shifted - np.log(total)


def entropy(p: Floats, log_p: Floats) -> float:
    """Return -sum of p * log p, one by one."""
    return -float(np.cumsum(p * log_p)[-1])


def log_softmax(scores: Scores) -> Floats:
    """Return log p of every token in float64; -inf for removed ones."""
    wide = scores.astype(np.float64)
    shifted = wide - wide.max()
    result: Floats = shifted - np.log(np.cumsum(np.exp(shifted))[-1])
    return result
