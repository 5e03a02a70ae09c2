"""Texts that make tokenizers slow: 25 shapes of any length."""

from __future__ import annotations

from collections.abc import Callable

ZWJ_FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"


def _repeat(unit: str) -> Callable[[int], str]:
    return lambda size: (unit * (size // len(unit) + 1))[:size]


SHAPES: dict[str, Callable[[int], str]] = {
    "one letter": _repeat("a"),
    "one space": _repeat(" "),
    "apostrophes": _repeat("'"),
    "digits": _repeat("1234567890"),
    "one digit": _repeat("0"),
    "newlines": _repeat("\n"),
    "carriage returns and newlines": _repeat("\r\n"),
    "tabs": _repeat("\t"),
    "letters and spaces in turn": _repeat("a "),
    "letters and digits in turn": _repeat("a1"),
    "letters and marks in turn": _repeat("a."),
    "contractions": _repeat("'s't'll've"),
    "half contractions": _repeat("'l'v'r"),
    "two letters in turn": _repeat("ab"),
    "the longest token": _repeat("\u00c3\u00c2"),
    "dashes": _repeat("-"),
    "equals signs and underscores": _repeat("=_"),
    "a long word": _repeat("antidisestablishmentarianism"),
    "words without spaces": _repeat("theofandtoin"),
    "spaces before each newline": _repeat(" \n"),
    "ideographic spaces": _repeat("\u3000"),
    "ideographs": _repeat("\u4e2d\u6587\u5b57"),
    "emoji families": _repeat(ZWJ_FAMILY),
    "combining marks": _repeat("e\u0301\u0302\u0303"),
    "bytes that are not UTF-8": _repeat("\xff\xc0\x80\xe2\x28"),  # as Latin-1
}


def shape(name: str, size: int) -> str | bytes:
    """Text of about `size` bytes."""
    make = SHAPES[name]
    if name == "bytes that are not UTF-8":
        return make(size).encode("latin-1")
    per_char = len(make(64).encode()) / 64
    return make(max(1, int(size / per_char)))
