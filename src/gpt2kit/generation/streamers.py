"""Streamers with Transformers' protocol: put(ids) for the prompts and each step, end() after the last.

Any object with these two methods can be passed as `streamer=`; Transformers' own streamers work too. Those here
also take batches: they have put_rows, which tells rows that have ended from rows with a token.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class Streamer(Protocol):
    """Takes token ids as they are generated."""

    def put(self, value: npt.NDArray[np.int64], /) -> None:
        """Take ids: (T,) or (B, T) the prompts first, then (B,) for each step."""

    def end(self) -> None:
        """Take note that all rows have ended."""


class TextStreamer:
    """Prints text to stdout as it is generated, never half a character.

    Of a batch, the first row is printed as it comes, and each other one after the rows before it, on a line of
    its own.

    tokenizer: of the model. skip_prompt: do not print the prompts. skip_special_tokens: leave them out.
    """

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, *, skip_special_tokens: bool = False
    ) -> None:
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.skip_special_tokens = skip_special_tokens
        self._rows: list[_RowText] = []
        self._num_printed = 0  # rows that were handed out completely

    def put(self, value: npt.NDArray[np.int64]) -> None:
        """Take ids and hand out the text that is complete.

        Prompts are (T,) or (B, T), steps (B,); what says which rows have ended is put_rows.
        """
        ids = np.asarray(value)
        if not self._rows:
            prompts = np.atleast_2d(ids)
            self.put_prompts([list(map(int, row)) for row in prompts])
        elif len(self._rows) == 1:
            for token_id in ids.reshape(-1):
                self.put_rows([int(token_id)])
        else:
            self.put_rows([int(token_id) for token_id in ids])

    def put_prompts(self, prompts: Sequence[Sequence[int]]) -> None:
        """Take the prompts of all rows, without padding; the first call after end()."""
        from gpt2kit.tokenizer import StreamDecoder

        for ids in prompts:
            decoder = StreamDecoder(self.tokenizer, skip_special_tokens=self.skip_special_tokens)
            row = _RowText(decoder)
            if not self.skip_prompt:
                row.push(ids)
            self._rows.append(row)
        self._hand_out()

    def put_rows(self, step: Sequence[int | None]) -> None:
        """Take one token a row, None for rows that have ended."""
        for row, token_id in zip(self._rows, step, strict=True):
            if token_id is None:
                row.finish()
            else:
                row.push([token_id])
        self._hand_out()

    def end(self) -> None:
        """Hand out what is left and get ready for other texts."""
        for row in self._rows:
            row.finish()
        self._hand_out()
        if not self._rows:
            self.on_finalized_text("", stream_end=True)
        self._rows = []
        self._num_printed = 0

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print text; override it to do something else with it. stream_end: it is the last of a row."""
        print(text, flush=True, end="\n" if stream_end else "")

    def _hand_out(self) -> None:
        """Give the text of the first row that has not ended, and of rows that it was keeping back."""
        while self._num_printed < len(self._rows):
            row = self._rows[self._num_printed]
            text = row.take()
            if row.is_finished:
                self._num_printed += 1
                self.on_finalized_text(text, stream_end=True)
            else:
                if text:
                    self.on_finalized_text(text)
                return


class TextIteratorStreamer(TextStreamer):
    """Keeps the text in a queue, to be iterated over while another thread generates.

    A single row gives pieces of text, a batch pairs (row, piece). timeout: seconds to wait for the next before
    queue.Empty is raised; None waits for ever.
    """

    def __init__(
        self,
        tokenizer: Any,
        skip_prompt: bool = False,
        timeout: float | None = None,
        *,
        skip_special_tokens: bool = False,
    ) -> None:
        super().__init__(tokenizer, skip_prompt, skip_special_tokens=skip_special_tokens)
        self.timeout = timeout
        self._pieces: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def end(self) -> None:
        """Put what is left into the queue, and the end mark."""
        is_batch = len(self._rows) > 1
        super().end()
        if is_batch:
            self._enqueue(None)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Put text into the queue, and the end mark after the last."""
        if text:
            self._enqueue(text)
        if stream_end:
            self._enqueue(None)

    def _enqueue(self, piece: Any) -> None:
        self._pieces.put(piece)

    def _hand_out(self) -> None:
        if len(self._rows) == 1:
            super()._hand_out()
            return
        for index, row in enumerate(self._rows):
            text = row.take()
            if text:
                self._enqueue((index, text))

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        piece = self._pieces.get(timeout=self.timeout)
        if piece is None:
            raise StopIteration
        return piece


class AsyncTextIteratorStreamer(TextIteratorStreamer):
    """As TextIteratorStreamer, for `async for` in the event loop that it was made in.

    timeout: seconds to wait for the next piece before asyncio.TimeoutError is raised; None waits for ever.
    """

    def __init__(
        self,
        tokenizer: Any,
        skip_prompt: bool = False,
        timeout: float | None = None,
        *,
        skip_special_tokens: bool = False,
    ) -> None:
        super().__init__(tokenizer, skip_prompt, timeout, skip_special_tokens=skip_special_tokens)
        self._loop = asyncio.get_running_loop()
        self._async_pieces: asyncio.Queue[Any] = asyncio.Queue()

    def _enqueue(self, piece: Any) -> None:
        self._loop.call_soon_threadsafe(self._async_pieces.put_nowait, piece)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        piece = await asyncio.wait_for(self._async_pieces.get(), self.timeout)
        if piece is None:
            raise StopAsyncIteration
        return piece


class _RowText:
    """The text of one row that was not handed out yet."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._text = ""
        self.is_finished = False

    def push(self, ids: Sequence[int]) -> None:
        self._text += "".join(self._decoder.push(int(token_id)) for token_id in ids)

    def finish(self) -> None:
        if not self.is_finished:
            self._text += self._decoder.finish()
            self.is_finished = True

    def take(self) -> str:
        text, self._text = self._text, ""
        return text
