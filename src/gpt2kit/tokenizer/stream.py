"""Decoding tokens as they come, without ever showing half a character."""

from __future__ import annotations

import codecs
from typing import Any

from gpt2kit.tokenizer.bpe import token_bytes


class StreamDecoder:
    """Turns token ids into text one at a time.

    The texts of all push() and of finish(), joined, equal tokenizer.decode of all the ids. A character whose
    bytes are spread over tokens comes out with the last of them.

    tokenizer: a GPT2Tokenizer, or any byte-level tokenizer with Transformers' methods.
    """

    def __init__(self, tokenizer: Any, *, skip_special_tokens: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")(getattr(tokenizer, "errors", "replace"))

    def push(self, token_id: int) -> str:
        """Give the text that this token completes; "" while a character is unfinished."""
        return self._decoder.decode(self._bytes(token_id))

    def finish(self) -> str:
        """Give what is left (an unfinished character, as the tokenizer's `errors` says) and start afresh."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest

    def fork(self) -> StreamDecoder:
        """Return a decoder that goes on from here on its own."""
        twin = StreamDecoder(self._tokenizer, skip_special_tokens=self._skip_special_tokens)
        twin._decoder.setstate(self._decoder.getstate())
        return twin

    def _bytes(self, token_id: int) -> bytes:
        if hasattr(self._tokenizer, "decode_bytes"):
            data: bytes = self._tokenizer.decode_bytes(
                [token_id], skip_special_tokens=self._skip_special_tokens
            )
            return data
        if self._skip_special_tokens and token_id in self._tokenizer.all_special_ids:
            return b""
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        return b"" if token is None else token_bytes(token)
