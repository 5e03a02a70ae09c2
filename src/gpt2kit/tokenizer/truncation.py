"""Cutting sequences to a maximal length, and what becomes of the rest."""

from __future__ import annotations

from gpt2kit.errors import TokenizerError

Range = tuple[int, int]  # tokens [start, stop) of a row


def windows(size: int, length: int, stride: int, side: str) -> list[Range]:
    """Cut `size` tokens into windows of `length` that overlap by `stride`: one is kept, the rest overflows.

    side "right" keeps the start of the text, "left" its end.

    >>> windows(5, 3, 1, "right")
    [(0, 3), (2, 5)]
    """
    if length >= size:
        return [(0, size)]
    if length == 0:
        return [(0, 0), (0, size)]
    if stride >= length:
        raise TokenizerError(
            f"stride is {stride}; it must be less than the {length} tokens that max_length leaves for "
            "the sequence "
            "that is cut"
        )
    ranges: list[Range] = []
    for at in range(0, size, length - stride):
        ranges.append((at, min(at + length, size)))
        if at + length >= size:
            break
    if side == "left":
        ranges = [(size - stop, size - start) for start, stop in ranges]
    return ranges


def target_sizes(first: int, second: int | None, max_length: int, strategy: str) -> tuple[int, int | None]:
    """How many tokens each sequence keeps, so that together they are at most max_length.

    strategy is "longest_first", "only_first" or "only_second". Raises TokenizerError if it cannot be done by
    cutting the sequence that the strategy names.
    """
    if max_length == 0:
        return 0, None if second is None else 0
    excess = first + (second or 0) - max_length
    if excess <= 0:
        return first, second
    if strategy == "longest_first":
        return (first - excess, None) if second is None else _longest_first(first, second, max_length)
    if strategy == "only_second" and second is None:
        raise TokenizerError("truncation='only_second' needs a pair of sequences, and only one was given")
    size = first if strategy == "only_first" else second
    if size is None or size <= excess:
        raise TokenizerError(
            f"truncation={strategy!r} would have to remove {excess} tokens from a sequence of {size}; raise "
            "max_length or use truncation='longest_first'"
        )
    return (first - excess, second) if strategy == "only_first" else (first, size - excess)


def _longest_first(first: int, second: int, max_length: int) -> tuple[int, int]:
    """Cut the longer sequence until both are equally long, then both; an odd token goes to the longer one."""
    short, long = sorted((first, second))
    long = max(short, max_length - short)
    if short + long > max_length:
        short, long = max_length // 2, max_length - max_length // 2
    return (long, short) if first > second else (short, long)
