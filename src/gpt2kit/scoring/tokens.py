"""Log-probabilities of token ids: rows of any length, cut into windows that the model can hold.

A window of at most `window` tokens begins every `stride` tokens, each with positions from 0 on. It scores
the tokens that no window before it held; all its earlier tokens are their context. So each token but a
row's first is scored once: those of the first window with everything before them, later ones with at least
window - stride tokens. A small stride is exact and slow, a large one quick.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2kit.errors import EngineError, ScoringError
from gpt2kit.generation.protocol import Engine, Sequence

BATCH_TOKENS = 256


@dataclass(frozen=True)
class _Piece:
    """Inputs [start, stop) of a row that go through the engine in one call.

    opens, closes: whether they are the first and the last of their window. is_scored: whether their logits
    are wanted, or only their keys and values.
    """

    row: int
    start: int
    stop: int
    opens: bool
    closes: bool
    is_scored: bool


def log_probabilities(
    engine: Engine,
    rows: Items[Items[int]],
    *,
    stride: int | None = None,
    window: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[npt.NDArray[np.float64]]:
    """Return for each row ln p(row[i + 1] | tokens before it): float64, one value fewer than the row has ids.

    stride, window: see resolve_window. A row of one id, or none, gives an empty array.
    batch_tokens: tokens a call of the engine, of one row or of many. Memory is batch_tokens times vocab_size
        float32 and the caches of batch_tokens + window tokens, however long the rows are.
    Raises ScoringError for ids or options out of range and EngineError for a model that gives no numbers.
    """
    window, stride = resolve_window(engine, window, stride)
    batch_tokens = _integer("batch_tokens", batch_tokens)
    if batch_tokens < 1:
        raise ScoringError(f"batch_tokens is {batch_tokens}; it must be at least 1")
    checked = [_checked_ids(ids, index, engine.config.vocab_size) for index, ids in enumerate(rows)]
    results = [np.empty(max(len(ids) - 1, 0), dtype=np.float64) for ids in checked]
    scratch = np.empty(engine.config.vocab_size, dtype=np.float64)
    sequences: list[Sequence] = []  # of the windows that are open; the last one continues in the next call
    try:
        for call in _calls([len(ids) for ids in checked], window, stride, batch_tokens):
            work = []
            for piece in call:
                if piece.opens:
                    sequences.append(engine.new_sequence())
                work.append((sequences[-1], checked[piece.row][piece.start : piece.stop]))
            outputs = engine.forward(work, logits="all" if call[0].is_scored else None)
            for piece, output in zip(call, outputs, strict=True):
                if output.logits is not None:
                    targets = checked[piece.row][piece.start + 1 : piece.stop + 1]
                    results[piece.row][piece.start : piece.stop] = [
                        _log_probability(logits, target, scratch)
                        for logits, target in zip(output.logits, targets, strict=True)
                    ]
            while sequences and (call[-1].closes or len(sequences) > 1):
                sequences.pop(0).free()
    finally:
        for sequence in sequences:
            sequence.free()
    return results


def resolve_window(engine: Engine, window: int | None = None, stride: int | None = None) -> tuple[int, int]:
    """Return (window, stride) in tokens, with the defaults filled in.

    window: from 2 to n_positions, which is the default. stride: from 1 to window - 1, so that a token that is
    scored always has context; by default half the window. Raises ScoringError for anything else.
    """
    n_positions = engine.config.n_positions
    if n_positions < 2:
        raise ScoringError(f"n_positions is {n_positions}; a model needs at least 2 to score a token")
    window = n_positions if window is None else _integer("window", window)
    if not 2 <= window <= n_positions:
        raise ScoringError(f"window is {window}; it must be from 2 to {n_positions}, the model's n_positions")
    stride = window // 2 if stride is None else _integer("stride", stride)
    if not 1 <= stride < window:
        raise ScoringError(f"stride is {stride}; it must be from 1 to {window - 1}, less than the window")
    return window, stride


def _windows(length: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Give (begin, first, end) of each window: it holds tokens [begin, end) and scores [first, end)."""
    begin, end = 0, 1  # a row's first token has no context and counts as done
    while end < length:
        first, end = end, min(begin + window, length)
        yield begin, first, end
        begin += stride


def _calls(lengths: list[int], window: int, stride: int, batch_tokens: int) -> Iterator[list[_Piece]]:
    """Give the engine's calls: at most batch_tokens inputs, all of them scored or none.

    Pieces of a window follow each other, at most one a call, so only a call's last window can stay open.
    """
    call: list[_Piece] = []
    room = batch_tokens
    for row, length in enumerate(lengths):
        for begin, first, end in _windows(length, window, stride):
            # The logits of input i score token i + 1.
            for start, stop, is_scored in ((begin, first - 1, False), (first - 1, end - 1, True)):
                while start < stop:
                    if call and (room == 0 or call[0].is_scored != is_scored):
                        yield call
                        call, room = [], batch_tokens
                    cut = min(stop, start + room)
                    call.append(_Piece(row, start, cut, start == begin, cut == end - 1, is_scored))
                    room -= cut - start
                    start = cut
    if call:
        yield call


def _log_probability(logits: npt.NDArray[np.float32], target: int, scratch: npt.NDArray[np.float64]) -> float:
    """Return the log-softmax of one row of logits at `target`; scratch is (V,) and overwritten."""
    scratch[:] = logits
    peak = float(scratch.max())
    if not math.isfinite(peak):
        raise EngineError(
            f"the model's largest logit is {peak}, so there are no probabilities; its weights are damaged "
            "or too large for its dtype (try dtype='float32')"
        )
    value = float(scratch[target]) - peak
    scratch -= peak
    np.exp(scratch, out=scratch)
    return value - math.log(float(scratch.sum()))


def _checked_ids(ids: Items[int], index: int, vocab_size: int) -> list[int]:
    """Return the ids as Python integers after checking that the model knows them."""
    try:
        checked = [operator.index(token_id) for token_id in ids]
    except TypeError:
        raise ScoringError(f"row {index} must be a list of token ids, which are integers") from None
    worst = min(checked, default=0)
    if worst >= 0:
        worst = max(checked, default=0)
    if not 0 <= worst < vocab_size:
        raise ScoringError(
            f"row {index} has token id {worst}; the model's go from 0 to {vocab_size - 1}; "
            "use the tokenizer that belongs to the model"
        )
    return checked


def _integer(name: str, value: Any) -> int:
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ScoringError(f"{name} is {value!r}; it must be an integer") from None
