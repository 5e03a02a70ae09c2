"""Feeds a streamer, put(ids) and end(), with the tokens of a generation as they come."""

from typing import Any

import torch
from torch import Tensor


class Feed:
    """Gives a streamer the prompts, then one step after the other, then the end.

    A step is int64 (B,), one token a row in the order of the batch; rows that have ended get the padding token.
    A step goes out as soon as it is known to be whole: when every row has a token, or when a row has its next.
    """

    def __init__(self, streamer: Any, prompts: Tensor, num_return_sequences: int, pad_token_id: int) -> None:
        """prompts: (B, T) with their padding. num_return_sequences: rows a prompt."""
        self._streamer = streamer
        self._num_return_sequences = num_return_sequences
        self._pad_token_id = pad_token_id
        self._num_rows = len(prompts) * num_return_sequences
        self._tokens: list[list[int]] = [[] for _ in range(self._num_rows)]
        self._num_steps = 0  # that the streamer has
        streamer.put(prompts.repeat_interleave(num_return_sequences, dim=0).cpu())

    def on_token(self, prompt_index: int, row: int, token_id: int) -> None:
        """Take a row's next token."""
        tokens = self._tokens[prompt_index * self._num_return_sequences + row]
        tokens.append(token_id)
        while len(tokens) > self._num_steps + 1 or all(len(t) > self._num_steps for t in self._tokens):
            self._put()

    def end(self) -> None:
        """Give what is left, and the end."""
        while any(len(tokens) > self._num_steps for tokens in self._tokens):
            self._put()
        self._streamer.end()

    def _put(self) -> None:
        step = [
            tokens[self._num_steps] if self._num_steps < len(tokens) else self._pad_token_id
            for tokens in self._tokens
        ]
        self._num_steps += 1
        self._streamer.put(torch.tensor(step, dtype=torch.long))
