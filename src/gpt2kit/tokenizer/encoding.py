"""One encoded sample: its tokens, and where in the text they come from.

An Encoding is a short list of parts (a stretch of an encoded text, a special token, padding). Ids are put
together when asked for; offsets and word numbers are computed when first asked for, for all texts of a call
at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from gpt2kit._native import Bpe


class Stretch(NamedTuple):
    """Tokens [start, stop) of a row; sequence is 0 or 1 (the second of a pair)."""

    row: int
    start: int
    stop: int
    sequence: int
    type_id: int


class Special(NamedTuple):
    """A special token that stands around a sequence."""

    id: int
    type_id: int


class Padding(NamedTuple):
    """Padding tokens, masked."""

    id: int
    type_id: int
    num_tokens: int


Part = Stretch | Special | Padding


class Details(NamedTuple):
    """Offsets in characters and word numbers of a row, one entry a token."""

    offsets: list[tuple[int, int]]
    words: list[int]


@dataclass
class Rows:
    """The encoded texts of one call. A text that came split into words is one row."""

    bpe: Bpe
    texts: Sequence[str | Sequence[str]]
    split_special: bool
    prefix_space: bool
    threads: int
    to_token: Callable[[int], str | None]
    other_ids: frozenset[int]  # of the special tokens and the padding that encodings may have besides
    trim_offsets: bool = False
    trim_keeps_first: bool = True
    ids: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        rows = self.bpe.encode_lists(self._flat_texts(), self.split_special, self.prefix_space, self.threads)
        self.ids = [self._join(rows, first, last) for first, last in self._flat_ranges()]

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: what is known of the tokens, without the tokenizer that knows it."""
        names = {id: self.to_token(id) for row in (*self.ids, self.other_ids) for id in row}
        return {"ids": self.ids, "details": self.details, "to_token": names.get}

    def _is_split(self) -> bool:
        return any(not isinstance(text, str) for text in self.texts)

    def _flat_texts(self) -> Sequence[str]:
        if not self._is_split():
            return self.texts  # type: ignore[return-value]  # all of them are str, as just seen
        return [word for text in self.texts for word in ([text] if isinstance(text, str) else text)]

    def _flat_ranges(self) -> list[tuple[int, int]]:
        ranges, first = [], 0
        for text in self.texts:
            last = first + (1 if isinstance(text, str) else len(text))
            ranges.append((first, last))
            first = last
        return ranges

    @staticmethod
    def _join(rows: list[list[int]], first: int, last: int) -> list[int]:
        if last - first == 1:
            return rows[first]
        return [id for row in rows[first:last] for id in row]

    @cached_property
    def details(self) -> list[Details]:
        """Offsets and words of every row. Words that came split are numbered as they came."""
        import numpy as np

        ids, splits, begins, ends, words = self.bpe.encode_details(
            self._flat_texts(), self.split_special, self.prefix_space, self.threads
        )
        result = []
        for text, (first, last) in zip(self.texts, self._flat_ranges(), strict=True):
            begin, end = int(splits[first]), int(splits[last])
            if not isinstance(text, str):
                words[begin:end] = np.repeat(np.arange(last - first), np.diff(splits[first : last + 1]))
            offsets = list(zip(begins[begin:end].tolist(), ends[begin:end].tolist(), strict=True))
            if self.trim_offsets:
                offsets = [
                    self._trim(i, id, offset)
                    for i, (id, offset) in enumerate(zip(ids[begin:end].tolist(), offsets, strict=True))
                ]
            result.append(Details(offsets, words[begin:end].tolist()))
        return result

    def _trim(self, index: int, id: int, offset: tuple[int, int]) -> tuple[int, int]:
        """Leave the white space of a token out of its offset, as the `tokenizers` library does."""
        begin, end = offset
        token = self.to_token(id) or ""
        leading = len(token) - len(token.lstrip("\u0120 "))
        trailing = len(token) - len(token.rstrip("\u0120 "))
        if leading and self.trim_keeps_first and (index == 0 or begin == 0):
            leading -= 1
        begin = min(begin + leading, end)
        if trailing and end >= trailing:
            end = max(end - trailing, begin)
        return begin, end


class Encoding:
    """The tokens of one sample, with what is known of each.

    Lists have one entry a token. Special tokens and padding have the offset (0, 0), no word and no sequence.
    """

    __slots__ = ("_ids", "overflowing", "parts", "rows")

    def __init__(self, rows: Rows, parts: tuple[Part, ...]) -> None:
        self.rows = rows
        self.parts = parts
        self.overflowing: list[Encoding] = []
        self._ids: list[int] | None = None

    def __len__(self) -> int:
        return sum(_size(part) for part in self.parts)

    def __repr__(self) -> str:
        numbers = f"num_tokens={len(self)}, n_sequences={self.n_sequences}"
        return f"Encoding({numbers}, overflowing={len(self.overflowing)})"

    @property
    def ids(self) -> list[int]:
        """Token ids."""
        if self._ids is None:
            parts = [self._part_ids(part) for part in self.parts]
            self._ids = parts[0] if len(parts) == 1 else [id for part in parts for id in part]
        return self._ids

    def _part_ids(self, part: Part) -> list[int]:
        if isinstance(part, Stretch):
            row = self.rows.ids[part.row]
            return row if part.stop - part.start == len(row) else row[part.start : part.stop]
        return [part.id] * _size(part)

    @property
    def tokens(self) -> list[str | None]:
        """Tokens as the vocabulary spells them."""
        return [self.rows.to_token(id) for id in self.ids]

    @property
    def type_ids(self) -> list[int]:
        """0 for the first sequence and 1 for the second, as the template says."""
        return [part.type_id for part in self.parts for _ in range(_size(part))]

    @property
    def attention_mask(self) -> list[int]:
        """1 for tokens, 0 for padding."""
        mask: list[int] = []
        for part in self.parts:
            mask += [0 if isinstance(part, Padding) else 1] * _size(part)
        return mask

    @property
    def special_tokens_mask(self) -> list[int]:
        """1 for special tokens that were put around the text and for padding."""
        return [int(not isinstance(part, Stretch)) for part in self.parts for _ in range(_size(part))]

    @property
    def sequence_ids(self) -> list[int | None]:
        """Which sequence a token is of: 0, 1 or None."""
        return [
            part.sequence if isinstance(part, Stretch) else None
            for part in self.parts
            for _ in range(_size(part))
        ]

    @property
    def n_sequences(self) -> int:
        """1, or 2 for a pair."""
        return max(1, sum(isinstance(part, Stretch) for part in self.parts))

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """First character and last character + 1 of each token, in its text or its word."""
        result: list[tuple[int, int]] = []
        for part in self.parts:
            if isinstance(part, Stretch):
                result += self.rows.details[part.row].offsets[part.start : part.stop]
            else:
                result += [(0, 0)] * _size(part)
        return result

    @property
    def word_ids(self) -> list[int | None]:
        """Number of the word that a token is of: a piece of the text, or a word as it came split."""
        result: list[int | None] = []
        for part in self.parts:
            if isinstance(part, Stretch):
                result += self.rows.details[part.row].words[part.start : part.stop]
            else:
                result += [None] * _size(part)
        return result

    # Backwards-compatible name of `tokenizers`.
    words = word_ids

    def token_to_sequence(self, token_index: int) -> int | None:
        """Sequence of a token."""
        return self.sequence_ids[token_index]

    def token_to_word(self, token_index: int) -> int | None:
        """Word of a token."""
        return self.word_ids[token_index]

    def token_to_chars(self, token_index: int) -> tuple[int, int] | None:
        """Offset of a token; None for special tokens and padding."""
        return None if self.sequence_ids[token_index] is None else self.offsets[token_index]

    def word_to_tokens(self, word_index: int, sequence_index: int = 0) -> tuple[int, int] | None:
        """First token and last token + 1 of a word."""
        tokens = [
            i
            for i, (word, sequence) in enumerate(zip(self.word_ids, self.sequence_ids, strict=True))
            if word == word_index and sequence == sequence_index
        ]
        return (tokens[0], tokens[-1] + 1) if tokens else None

    def word_to_chars(self, word_index: int, sequence_index: int = 0) -> tuple[int, int] | None:
        """First character and last character + 1 of a word."""
        tokens = self.word_to_tokens(word_index, sequence_index)
        if tokens is None:
            return None
        offsets = self.offsets
        return offsets[tokens[0]][0], offsets[tokens[1] - 1][1]

    def char_to_token(self, char_index: int, sequence_index: int = 0) -> int | None:
        """First token that holds a character."""
        for i, ((begin, end), sequence) in enumerate(zip(self.offsets, self.sequence_ids, strict=True)):
            if sequence == sequence_index and begin <= char_index < end:
                return i
        return None

    def char_to_word(self, char_index: int, sequence_index: int = 0) -> int | None:
        """Word that holds a character."""
        token = self.char_to_token(char_index, sequence_index)
        return None if token is None else self.word_ids[token]


def _size(part: Part) -> int:
    if isinstance(part, Stretch):
        return part.stop - part.start
    return part.num_tokens if isinstance(part, Padding) else 1
