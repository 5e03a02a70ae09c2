"""Choose one token id from processed scores. A pure function: same scores, same coin, same token."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gpt2kit.errors import GenerationError


def sample(scores: npt.NDArray[np.float32], coin: float | None) -> int:
    """Pick one token id from float32 scores (V,).

    coin None is greedy: the lowest id among the largest scores. Otherwise coin is uniform in [0, 1) and the
    choice is the inverse of the cumulative distribution, all in float64:

        p[i]   = exp(float64(scores[i]) - float64(max))       0 for -inf
        cum[i] = cum[i - 1] + p[i]                            one by one, ids ascending
        pick the first i with cum[i] > coin * cum[V - 1]

    If rounding leaves none, the last id with p > 0 is picked; an id with p = 0 never is.
    Raises GenerationError when the largest score is not finite (all -inf, or any NaN or +inf).
    """
    top = int(np.argmax(scores))
    highest = float(scores[top])
    if not np.isfinite(highest):
        raise GenerationError(no_choice_message(highest))
    if coin is None:
        return top
    # Skipping the zeros leaves every sum as it is.
    candidates = np.flatnonzero(scores > -np.inf)
    cumulative = np.cumsum(np.exp(scores[candidates].astype(np.float64) - highest))
    index = int(np.searchsorted(cumulative, coin * cumulative[-1], side="right"))
    if index == len(candidates):
        index = int(np.searchsorted(cumulative, cumulative[-1], side="left"))
    return int(candidates[index])


def no_choice_message(highest: float) -> str:
    """Say why no token can be chosen when the largest score is not finite."""
    if highest == -np.inf:
        return (
            "no token is left to choose: every score is -inf; "
            "relax bad_words_ids, no_repeat_ngram_size or the custom processor"
        )
    return (
        f"the scores hold {highest}, so no token can be chosen; the weights or a custom processor are broken"
    )
