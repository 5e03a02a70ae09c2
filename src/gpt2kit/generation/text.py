"""The text of one row as it grows: decoding across token borders, stop strings, what may be shown."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol


class Decoder(Protocol):
    """Turns token ids into text one by one and never gives half a character; StreamDecoder is one."""

    def push(self, token_id: int) -> str:
        """Take one id and return the text that is complete now."""

    def finish(self) -> str:
        """Return what is left, with U+FFFD for bytes that never became a character."""

    def fork(self) -> Decoder:
        """Return a decoder that goes on from here on its own."""


class RowText:
    """Decodes one row and looks for stop strings in it, whatever tokens they are made of.

    Only new text is searched, not the prompt. With trim, the text ends before the stop string, so text that
    could be the beginning of one is held back until that is settled. Without it, the text keeps the whole
    token that completed the stop string, as Transformers does, and nothing is held back.
    """

    def __init__(self, decoder: Decoder, stop_strings: Sequence[str], *, trim: bool) -> None:
        self._decoder = decoder
        self._stop_strings = tuple(stop_strings)
        self._longest = max((len(stop) for stop in stop_strings), default=0)
        self._trim = trim
        self._tail = ""  # the last longest - 1 characters decoded: a stop string may have begun there
        self._num_held = 0  # how many characters at the end of the tail are not shown yet
        self._shown: list[str] = []
        self.stop_string: str | None = None

    @property
    def text(self) -> str:
        """All text that was shown so far."""
        return "".join(self._shown)

    def fork(self) -> RowText:
        """Return a copy that goes on from here on its own."""
        twin = copy.copy(self)
        twin._decoder = self._decoder.fork()
        twin._shown = list(self._shown)
        return twin

    def push(self, token_id: int) -> str:
        """Take one id and return the text to show now; sets `stop_string` when one was found."""
        return self._show(self._search(self._decoder.push(token_id)))

    def finish(self) -> str:
        """Return the text that is left; none after a stop string that was trimmed."""
        if self.stop_string is not None:
            return "" if self._trim else self._show(self._decoder.finish())
        piece = self._search(self._decoder.finish())
        if self.stop_string is None and self._num_held:
            piece += self._tail[-self._num_held :]
            self._num_held = 0
        return self._show(piece)

    def _search(self, piece: str) -> str:
        """Look for a stop string that ends in `piece` and return what may be shown."""
        if not self._stop_strings:
            return piece
        window = self._tail + piece
        first_hidden = len(self._tail) - self._num_held
        found = [(start, stop) for stop in self._stop_strings if (start := window.find(stop)) >= 0]
        self._tail = window[max(0, len(window) - self._longest + 1) :]
        if found:
            start, self.stop_string = min(found, key=lambda item: item[0])
            return window[first_hidden:start] if self._trim else piece
        if not self._trim:
            return piece
        self._num_held = self._longest_beginning(self._tail)
        return window[first_hidden : len(window) - self._num_held]

    def _longest_beginning(self, text: str) -> int:
        """Return the length of the longest end of `text` that begins a stop string."""
        for length in range(min(len(text), self._longest - 1), 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stop_strings):
                return length
        return 0

    def _show(self, piece: str) -> str:
        if piece:
            self._shown.append(piece)
        return piece
