"""Decoding tokens as they come, without ever showing half a character."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2kit.tokenizer.gpt2 import GPT2Tokenizer


class StreamDecoder:
    """Turns token ids into text one at a time.

    The texts of all push() and of finish(), joined, equal tokenizer.decode of all the ids. A character whose bytes are
    spread over tokens comes out with the last of them.

    >>> decoder = StreamDecoder(tokenizer)
    >>> "".join([decoder.push(id) for id in ids] + [decoder.finish()]) == tokenizer.decode(ids)
    True
    """

    def __init__(self, tokenizer: GPT2Tokenizer, *, skip_special_tokens: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")(tokenizer.errors)

    def push(self, token_id: int) -> str:
        """Give the text that this token completes; "" while a character is unfinished."""
        return self._decoder.decode(
            self._tokenizer.decode_bytes([token_id], skip_special_tokens=self._skip_special_tokens)
        )

    def finish(self) -> str:
        """Give what is left (an unfinished character, as the tokenizer's `errors` says) and start afresh."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
