"""Stopping criteria under Transformers' names, over tensors.

A criterion takes input_ids (B, T) and the scores of the steps so far, a tuple of (B, V) or None, and returns bool
(B,): which rows are finished.
"""

import time
from typing import Any

import torch
from torch import Tensor

from gpt2kit.config.generation_checks import integer, number, strings
from gpt2kit.errors import GenerationError
from gpt2kit.tokenizer.bpe import token_bytes
from gpt2kit.torch_generation.logits_processor import id_list


class StoppingCriteria:
    """What ends rows; subclasses define __call__."""

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        """Return which rows are finished."""
        raise NotImplementedError(f"{type(self).__name__} is abstract: a subclass defines __call__")


class StoppingCriteriaList(list[Any]):
    """Criteria of which any ends a row."""

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Return which rows are finished, bool (B,)."""
        is_done = _all_rows(input_ids, False)
        for criterion in self:
            is_done = is_done | criterion(input_ids, scores, **kwargs)
        return is_done

    @property
    def max_length(self) -> int | None:
        """The max_length of the first MaxLengthCriteria, if there is one."""
        return next((item.max_length for item in self if isinstance(item, MaxLengthCriteria)), None)


class MaxLengthCriteria(StoppingCriteria):
    """Ends rows of max_length tokens, prompt included.

    max_position_embeddings is accepted; generation keeps within the model's positions by itself.
    """

    def __init__(self, max_length: int, max_position_embeddings: int | None = None) -> None:
        self.max_length = integer(0)("max_length", max_length)
        self.max_position_embeddings = max_position_embeddings

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return _all_rows(input_ids, input_ids.shape[1] >= self.max_length)


class MaxTimeCriteria(StoppingCriteria):
    """Ends all rows max_time seconds after initial_timestamp (time.time()), by default after it is made."""

    def __init__(self, max_time: float, initial_timestamp: float | None = None) -> None:
        self.max_time = number("at least 0 (seconds)", lambda x: x >= 0.0)("max_time", max_time)
        self.initial_timestamp = time.time() if initial_timestamp is None else initial_timestamp

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return _all_rows(input_ids, time.time() - self.initial_timestamp > self.max_time)


class StopStringCriteria(StoppingCriteria):
    """Ends a row when its last token completes one of the strings, whatever tokens that is made of.

    Text is compared as UTF-8 bytes. tokenizer: has Transformers' convert_ids_to_tokens and byte-level tokens.
    """

    def __init__(self, tokenizer: Any, stop_strings: str | list[str]) -> None:
        self.stop_strings = tuple(strings("stop_strings", stop_strings))
        if not self.stop_strings:
            raise GenerationError("stop_strings is empty; give one string at least")
        self._tokenizer = tokenizer
        self._targets = [text.encode() for text in self.stop_strings]
        self._longest = max(map(len, self._targets))

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        # A token has a byte at least, so an occurrence spans no more tokens than it has bytes.
        rows = [self._is_complete(ids) for ids in input_ids[:, -self._longest :].tolist()]
        return torch.tensor(rows, dtype=torch.bool, device=input_ids.device)

    def _is_complete(self, token_ids: list[int]) -> bool:
        pieces = [self._bytes(token_id) for token_id in token_ids]
        text = b"".join(pieces)
        before = len(text) - len(pieces[-1]) if pieces else 0
        return any(text.find(target, max(0, before - len(target) + 1)) >= 0 for target in self._targets)

    def _bytes(self, token_id: int) -> bytes:
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        return b"" if token is None else token_bytes(token)


class EosTokenCriteria(StoppingCriteria):
    """Ends rows whose last token is an end token."""

    def __init__(self, eos_token_id: int | list[int] | Tensor) -> None:
        self.eos_token_id = torch.tensor(id_list("eos_token_id", eos_token_id), dtype=torch.long)

    def __call__(self, input_ids: Tensor, scores: Any, new_token_length: int = 1, **kwargs: Any) -> Tensor:
        self.eos_token_id = self.eos_token_id.to(input_ids.device)
        return torch.isin(input_ids[:, -new_token_length:], self.eos_token_id).any(dim=-1)


class ConfidenceCriteria(StoppingCriteria):
    """Ends the only row when the model gave its last token a probability below the threshold."""

    def __init__(self, assistant_confidence_threshold: float) -> None:
        self.assistant_confidence_threshold = assistant_confidence_threshold

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> bool:
        probabilities = scores[-1].softmax(-1)
        return bool(probabilities[0, input_ids[0, -1]] < self.assistant_confidence_threshold)


def _all_rows(input_ids: Tensor, is_done: bool) -> Tensor:
    return torch.full((len(input_ids),), is_done, dtype=torch.bool, device=input_ids.device)
