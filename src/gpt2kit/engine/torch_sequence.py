"""TorchSequence: the cached keys and values of one text on the torch engine, and what comes with its tokens."""

from typing import Any

import torch
from torch import Tensor

from gpt2kit.errors import EngineError
from gpt2kit.model.cache.base import Cache


class TorchSequence:
    """The cached keys and values of one text, on the engine's device."""

    def __init__(
        self,
        engine: object,
        cache: Cache,
        *,
        embeds: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        encoder: dict[str, Tensor] | None = None,
    ) -> None:
        """Start from a cache of batch size 1.

        embeds (T, C): embeddings to run before the next ids.
        token_type_ids (T,): of the first positions; the last one is that of all positions after them.
        encoder: encoder_hidden_states and encoder_attention_mask, with batch size 1, for every pass.
        """
        self.engine = engine
        self.cache = cache
        self.embeds = embeds
        self.encoder = encoder
        self.is_freed = False
        self.num_hidden = 0  # positions that stand for no id; they come before those that do
        self._token_type_ids = token_type_ids

    @property
    def length(self) -> int:
        """Number of tokens in the cache, or waiting as embeddings."""
        return self.num_positions - self.num_hidden

    @property
    def num_positions(self) -> int:
        """Number of positions taken, also by what stands for no id."""
        return self.cache.get_seq_length() + self.num_waiting

    @property
    def num_waiting(self) -> int:
        """Number of positions that wait as embeddings."""
        return 0 if self.embeds is None else len(self.embeds)

    def next_token_type_ids(self, num_new: int) -> Tensor | None:
        """Types (num_new,) of the positions after the cached ones, None when there are none."""
        if self._token_type_ids is None:
            return None
        past = self.cache.get_seq_length()
        return self._token_type_ids[
            torch.arange(past, past + num_new).clamp(max=len(self._token_type_ids) - 1)
        ]

    def fork(self) -> "TorchSequence":
        """Return a copy that continues on its own."""
        self.check_alive()
        other = object.__new__(TorchSequence)
        state: dict[str, Any] = self.__dict__
        other.__dict__.update(state)
        other.cache = self.cache.fork()
        return other

    def truncate(self, length: int) -> None:
        """Forget all tokens from position `length` on. Raises EngineError when there are fewer."""
        self.check_alive()
        if not 0 <= length <= self.length:
            raise EngineError(f"cannot truncate to {length} tokens; the sequence has {self.length}")
        if length < self.length:
            if self.embeds is not None:
                raise EngineError("a sequence cannot be cut before its embeddings were run")
            self.cache.crop(length - self.length)

    def free(self) -> None:
        """Give the memory back."""
        self.is_freed = True
        self.cache.reset()

    def check_alive(self) -> None:
        """Raise EngineError when the sequence was freed."""
        if self.is_freed:
            raise EngineError("the sequence was freed; ask the engine for a new one")
