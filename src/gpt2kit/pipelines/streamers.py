"""Streamers with Transformers' protocol: put(ids) for the prompt and each new token, end() after the last.

Any object with these two methods can be passed as `streamer=`; Transformers' own streamers work too.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class Streamer(Protocol):
    """Takes token ids as they are generated."""

    def put(self, value: npt.NDArray[np.int64], /) -> None:
        """Take ids: (T,) the prompt first, then (1,) for each new token."""

    def end(self) -> None:
        """Take note that the row has ended."""


class TextStreamer:
    """Prints text to stdout as it is generated, never half a character.

    tokenizer: of the model. skip_prompt: do not print the prompt. skip_special_tokens: leave them out.
    """

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, *, skip_special_tokens: bool = False
    ) -> None:
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.skip_special_tokens = skip_special_tokens
        self._is_prompt = True
        self._decoder: Any = None

    def put(self, value: npt.NDArray[np.int64]) -> None:
        """Take ids and hand out the text that is complete."""
        ids = np.asarray(value)
        if ids.ndim > 1:
            if len(ids) > 1:
                raise ValueError(f"a streamer takes one row, got {len(ids)}; use pipeline.stream_batch")
            ids = ids[0]
        is_prompt, self._is_prompt = self._is_prompt, False
        if is_prompt and self.skip_prompt:
            return
        if self._decoder is None:
            from gpt2kit.tokenizer import StreamDecoder

            self._decoder = StreamDecoder(self.tokenizer, skip_special_tokens=self.skip_special_tokens)
        text = "".join(self._decoder.push(int(token_id)) for token_id in ids)
        if text:
            self.on_finalized_text(text)

    def end(self) -> None:
        """Hand out what is left and get ready for another text."""
        text = self._decoder.finish() if self._decoder is not None else ""
        self._decoder = None
        self._is_prompt = True
        self.on_finalized_text(text, stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print text; override it to do something else with it."""
        print(text, flush=True, end="\n" if stream_end else "")


class TextIteratorStreamer(TextStreamer):
    """Keeps the text in a queue, to be iterated over while another thread generates.

    timeout: seconds to wait for the next piece before queue.Empty is raised; None waits for ever.
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
        self._pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Put text into the queue, and the end mark after the last."""
        if text:
            self._pieces.put(text)
        if stream_end:
            self._pieces.put(None)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = self._pieces.get(timeout=self.timeout)
        if piece is None:
            raise StopIteration
        return piece
