"""Where an answer may stand: probabilities of its first and last token, the best spans, the words they touch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpt2kit.pipelines.judging import softmax

Span = tuple[int, int]  # characters
Floats = npt.NDArray[np.float64]


def probabilities(
    logits: npt.NDArray[np.float32], is_context: npt.NDArray[np.bool_], has_null: bool
) -> tuple[Floats, Floats]:
    """Return the probabilities (T,) of each token to begin and to end the answer, 0 outside the context.

    has_null: the first token stands for "no answer" and takes part too.
    """
    takes_part = is_context.copy()
    takes_part[0] |= has_null
    masked = np.where(takes_part[:, None], logits.astype(np.float64), -np.inf)
    return softmax(masked[:, 0]), softmax(masked[:, 1])


def best_spans(
    start: Floats, end: Floats, is_context: npt.NDArray[np.bool_], max_length: int, count: int
) -> list[tuple[int, int, float]]:
    """Return the `count` best (first token, last token, score) of the context, the best first.

    At most max_length tokens; of equals the earlier one.
    """
    band = np.tril(np.triu(np.outer(is_context, is_context)), max_length - 1)
    firsts, lasts = np.nonzero(band)
    scores = start[firsts] * end[lasts]
    best = np.argsort(-scores, kind="stable")[:count]
    return [(int(firsts[i]), int(lasts[i]), float(scores[i])) for i in best]


def word_spans(spans: Sequence[Span | None], word_ids: Sequence[int | None]) -> list[Span | None]:
    """Return the characters of the word, as far as the window has it, that each token is of."""
    extents: dict[int, Span] = {}
    for span, word in zip(spans, word_ids, strict=True):
        if span is not None and word is not None:
            begin, end = extents.get(word, span)
            extents[word] = (min(begin, span[0]), max(end, span[1]))
    return [
        span if span is None or word is None else extents[word]
        for span, word in zip(spans, word_ids, strict=True)
    ]
