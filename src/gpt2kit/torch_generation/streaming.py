"""Feeds a streamer with the tokens of a generation as they come."""

from collections.abc import Collection
from typing import Any

import torch

from gpt2kit.torch_generation.prompts import Prompts


class Feed:
    """Gives a streamer the prompts, then one step after the other, then the end.

    A step has one token a row, in the order of the batch. It goes out as soon as every row has its token or has
    ended. Streamers with put_prompts and put_rows get lists, None for rows that have ended; others get tensors
    with padding, put(prompts (B, T)) and put(tokens (B,)).
    """

    def __init__(
        self,
        streamer: Any,
        prompts: Prompts,
        num_return_sequences: int,
        *,
        pad_token_id: int,
        eos_token_ids: Collection[int],
        max_new_tokens: int,
        is_in_step: bool,
    ) -> None:
        """num_return_sequences: rows a prompt. eos_token_ids, max_new_tokens: what ends a row.

        is_in_step: all rows grow by a token before one grows again, so a row that was passed over has ended.
        """
        if not (hasattr(streamer, "put") and hasattr(streamer, "end")):
            raise TypeError(f"streamer is a {type(streamer).__name__}; it must have put(values) and end()")
        self._streamer = streamer
        self._num_return_sequences = num_return_sequences
        self._pad_token_id = pad_token_id
        self._eos_token_ids = frozenset(eos_token_ids)
        self._max_new_tokens = max_new_tokens
        self._is_in_step = is_in_step
        num_rows = len(prompts.ids) * num_return_sequences
        self._tokens: list[list[int]] = [[] for _ in range(num_rows)]
        self._is_ended = [False] * num_rows
        self._num_steps = 0  # that the streamer has
        if hasattr(streamer, "put_rows"):
            streamer.put_prompts([ids for ids in prompts.ids for _ in range(num_return_sequences)])
        else:
            streamer.put(prompts.padded.repeat_interleave(num_return_sequences, dim=0).cpu())

    def on_token(self, prompt_index: int, row: int, token_id: int) -> None:
        """Take a row's next token."""
        index = prompt_index * self._num_return_sequences + row
        tokens = self._tokens[index]
        tokens.append(token_id)
        self._is_ended[index] = token_id in self._eos_token_ids or len(tokens) >= self._max_new_tokens
        if self._is_in_step and len(tokens) > self._num_steps + 1:
            self._put()
        while self._is_whole():
            self._put()

    def end(self) -> None:
        """Give what is left, and the end."""
        while any(len(tokens) > self._num_steps for tokens in self._tokens):
            self._put()
        self._streamer.end()

    def _is_whole(self) -> bool:
        """Tell whether there is a next step and no row can add to it any more."""
        has_token = [len(tokens) > self._num_steps for tokens in self._tokens]
        return any(has_token) and all(
            has or ended for has, ended in zip(has_token, self._is_ended, strict=True)
        )

    def _put(self) -> None:
        step = [tokens[self._num_steps] if self._num_steps < len(tokens) else None for tokens in self._tokens]
        self._num_steps += 1
        self._is_ended = [ended or token is None for ended, token in zip(self._is_ended, step, strict=True)]
        if hasattr(self._streamer, "put_rows"):
            self._streamer.put_rows(step)
        else:
            padded = [self._pad_token_id if token is None else token for token in step]
            self._streamer.put(torch.tensor(padded, dtype=torch.long))
