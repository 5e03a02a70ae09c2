"""Byte-level BPE in plain Python: the specification that the C++ core is held to.

It is slow and short on purpose. Text goes through three steps:

1. `split_pieces`: GPT-2's pattern cuts the text into pieces; nothing is lost.
2. `BYTE_TO_CHAR`: the UTF-8 bytes of a piece are spelt with printable characters, so that a token is a
string. 3. `merge`: the adjacent pair of lowest rank is merged, leftmost first, until no pair has a rank.

Added tokens, special or not, are found before step 1 and are not part of this module.
"""

import itertools
import re
from collections.abc import Mapping
from functools import cache

from gpt2kit.tokenizer.unicode_classes import LETTERS, NUMBERS, SPACES


def _bytes_to_chars() -> dict[int, str]:
    """Map every byte to a printable character: itself where it prints, else 256 and up in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


BYTE_TO_CHAR = _bytes_to_chars()
CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}


def _char_set(ranges: tuple[tuple[int, int], ...]) -> str:
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


@cache
def _pattern() -> re.Pattern[str]:
    """GPT-2's pattern, with \\p{L}, \\p{N} and \\s written out so that every Python version agrees."""
    letter, number, space = _char_set(LETTERS), _char_set(NUMBERS), _char_set(SPACES)
    return re.compile(
        f"'s|'t|'re|'ve|'m|'ll|'d| ?[{letter}]+| ?[{number}]+| ?[^{space}{letter}{number}]+"
        f"|[{space}]+(?![^{space}])|[{space}]+"
    )


def split_pieces(text: str) -> list[str]:
    """Cut a text into the pieces that are merged one by one.

    >>> split_pieces("I'm  here, 2day")
    ['I', "'m", ' ', ' here', ',', ' 2', 'day']
    """
    return _pattern().findall(text)


def merge(symbols: list[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Merge adjacent symbols, lowest rank first and leftmost first.

    >>> merge(["l", "o", "w"], {("l", "o"): 0, ("lo", "w"): 1})
    ['low']
    """
    symbols = list(symbols)
    while True:
        candidates = [(ranks[pair], i) for i, pair in enumerate(itertools.pairwise(symbols)) if pair in ranks]
        if not candidates:
            return symbols
        _, i = min(candidates)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


def encode(text: str | bytes, vocab: Mapping[str, int], ranks: Mapping[tuple[str, str], int]) -> list[int]:
    """Encode ordinary text. Bytes that are not UTF-8 count as characters of no class, one each.

    Raises KeyError if a byte of the text is not in the vocabulary.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    ids = []
    for piece in split_pieces(text):
        symbols = [BYTE_TO_CHAR[byte] for byte in piece.encode("utf-8", "surrogateescape")]
        ids += [vocab[token] for token in merge(symbols, ranks)]
    return ids


def token_bytes(token: str) -> bytes:
    """Give the bytes that a token's spelling stands for.

    A spelling with a character outside the byte alphabet (an added token such as "<|im start|>") stands for
    its own UTF-8.
    """
    if all(char in CHAR_TO_BYTE for char in token):
        return bytes(CHAR_TO_BYTE[char] for char in token)
    return token.encode("utf-8")
