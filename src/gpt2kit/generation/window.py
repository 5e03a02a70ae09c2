"""Text longer than n_positions: which part of it the model sees."""

from __future__ import annotations


def window_start(length: int, n_positions: int) -> int:
    """Return where the context of the next token begins in a text of `length` tokens.

    Positions are absolute, so a window that moves makes the cache worthless. It therefore moves seldom: when
    n_positions tokens are full, by half of them, and the rest is run again from position 0. Where it begins
    depends on the length alone, not on what of the text was prompt.
    """
    stride = max(1, n_positions // 2)
    return max(0, -(-(length - n_positions) // stride) * stride)
