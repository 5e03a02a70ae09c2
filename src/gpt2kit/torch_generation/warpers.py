"""Logits processors of sampling under Transformers' names, over tensors: temperature and what removes tokens.

filter_value stands for removed tokens; min_tokens_to_keep tokens stay whatever their probability.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gpt2kit.config.generation_checks import integer, number, positive
from gpt2kit.generation.processors import warpers
from gpt2kit.generation.processors.scores import Scores
from gpt2kit.torch_generation.logits_processor import LogitsProcessor, by_row

_share = number("from 0 to 1", lambda x: 0.0 <= x <= 1.0)
_positive_share = number("over 0 and at most 1", lambda x: 0.0 < x <= 1.0)
_inner_share = number("between 0 and 1", lambda x: 0.0 < x < 1.0)


class TemperatureLogitsWarper(LogitsProcessor):
    """Divides scores by a temperature."""

    def __init__(self, temperature: float) -> None:
        self.temperature = positive("temperature", temperature)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return by_row(lambda _, ids, row: warpers.scale_temperature(row, self.temperature), input_ids, scores)


class _Filter(LogitsProcessor):
    """Removes what a function (scores) -> scores removes, and puts filter_value there."""

    filter_value: float
    min_tokens_to_keep: int

    def _set(self, filter_value: float, min_tokens_to_keep: int) -> None:
        self.filter_value = filter_value
        self.min_tokens_to_keep = integer(1)("min_tokens_to_keep", min_tokens_to_keep)

    def _filter(self, function: Callable[[Scores], Scores], input_ids: Tensor, scores: Tensor) -> Tensor:
        out = by_row(lambda _, ids, row: function(row), input_ids, scores)
        return out if self.filter_value == -math.inf else torch.where(out.isneginf(), self.filter_value, out)


class TopKLogitsWarper(_Filter):
    """Keeps the top_k highest scores and their ties."""

    def __init__(self, top_k: int, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        self._set(filter_value, min_tokens_to_keep)
        self.top_k = max(integer(1)("top_k", top_k), self.min_tokens_to_keep)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self._filter(lambda row: warpers.keep_top_k(row, self.top_k), input_ids, scores)


class TopPLogitsWarper(_Filter):
    """Keeps the most probable tokens that hold top_p of the probability."""

    def __init__(self, top_p: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        self._set(filter_value, min_tokens_to_keep)
        self.top_p = _share("top_p", top_p)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        least = self.min_tokens_to_keep
        return self._filter(lambda row: warpers.keep_top_p(row, self.top_p, least), input_ids, scores)


class TopHLogitsWarper(_Filter):
    """Keeps the most probable tokens that hold top_h of the entropy, out of the first 100."""

    def __init__(self, top_h: float, filter_value: float = -math.inf) -> None:
        self._set(filter_value, 1)
        self.top_h = _positive_share("top_h", top_h)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self._filter(lambda row: warpers.keep_top_h(row, self.top_h), input_ids, scores)


class MinPLogitsWarper(_Filter):
    """Keeps tokens at least min_p times as probable as the first."""

    def __init__(self, min_p: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        self._set(filter_value, min_tokens_to_keep)
        self.min_p = _share("min_p", min_p)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        least = self.min_tokens_to_keep
        return self._filter(lambda row: warpers.keep_min_p(row, self.min_p, least), input_ids, scores)


class TypicalLogitsWarper(_Filter):
    """Keeps the tokens whose surprise is nearest to the entropy, until they hold `mass`."""

    def __init__(
        self, mass: float = 0.9, filter_value: float = -math.inf, min_tokens_to_keep: int = 1
    ) -> None:
        self._set(filter_value, min_tokens_to_keep)
        self.mass = _inner_share("typical_p", mass)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        least = self.min_tokens_to_keep
        return self._filter(lambda row: warpers.keep_typical(row, self.mass, least), input_ids, scores)


class EpsilonLogitsWarper(_Filter):
    """Keeps tokens with a probability of at least epsilon."""

    def __init__(self, epsilon: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        self._set(filter_value, min_tokens_to_keep)
        self.epsilon = _inner_share("epsilon_cutoff", epsilon)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        least = self.min_tokens_to_keep
        return self._filter(lambda row: warpers.cut_epsilon(row, self.epsilon, least), input_ids, scores)


class EtaLogitsWarper(_Filter):
    """Keeps tokens with a probability of at least min(epsilon, sqrt(epsilon) * exp(-entropy))."""

    def __init__(
        self,
        epsilon: float,
        filter_value: float = -math.inf,
        min_tokens_to_keep: int = 1,
        device: str = "cpu",
    ) -> None:
        self._set(filter_value, min_tokens_to_keep)
        self.epsilon = _inner_share("eta_cutoff", epsilon)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        least = self.min_tokens_to_keep
        return self._filter(lambda row: warpers.cut_eta(row, self.epsilon, least), input_ids, scores)
