"""Detectors: how likely it is that a text carries a watermark."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2kit.config import GPT2Config
from gpt2kit.config.watermarking import (
    BaseWatermarkingConfig,
    SynthIDTextWatermarkingConfig,
    WatermarkingConfig,
    watermarking_config,
)
from gpt2kit.errors import GenerationError
from gpt2kit.generation.processors.scores import Ids
from gpt2kit.generation.processors.synthid import compute_g_values, context_is_new
from gpt2kit.generation.processors.watermark import is_green

_Numbers = npt.NDArray[np.float64]


@dataclass
class WatermarkDetectorOutput:
    """What WatermarkDetector found in each of B texts; every field has shape (B,).

    num_tokens_scored, num_green_tokens, green_fraction: counts, and their ratio.
    z_score: how far the count of green tokens is above chance, in standard deviations.
    p_value: the probability of such a count without a watermark. confidence: 1 - p_value.
    prediction: whether z_score is over the threshold.
    """

    num_tokens_scored: _Numbers | None = None
    num_green_tokens: _Numbers | None = None
    green_fraction: _Numbers | None = None
    z_score: _Numbers | None = None
    p_value: _Numbers | None = None
    prediction: npt.NDArray[np.bool_] | None = None
    confidence: _Numbers | None = None


class WatermarkDetector:
    """Counts green tokens; the settings must be those of the generation.

    Give it the generated ids without the prompt, whose tokens carry no watermark.
    ignore_repeated_ngrams: count an n-gram once, however often it occurs.
    """

    def __init__(
        self,
        model_config: GPT2Config,
        device: Any = "cpu",
        watermarking_config: WatermarkingConfig | Mapping[str, Any] | None = None,
        ignore_repeated_ngrams: bool = False,
        max_cache_size: int = 128,
    ) -> None:
        """Take the model's configuration, for its vocab_size and bos_token_id.

        device: taken as Transformers takes it; counting runs on the CPU. max_cache_size: how many n-grams are
        remembered between texts.
        """
        self._config = _checked(watermarking_config, WatermarkingConfig)
        self._vocab_size = model_config.vocab_size
        self._bos_token_id = model_config.bos_token_id
        self._ignore_repeated_ngrams = ignore_repeated_ngrams
        self._is_green = lru_cache(maxsize=max_cache_size)(self._look_up)

    def __call__(
        self, input_ids: Any, z_threshold: float = 3.0, return_dict: bool = False
    ) -> WatermarkDetectorOutput | npt.NDArray[np.bool_]:
        """Judge texts (B, T), an array, nested lists or a tensor: whether each z-score is over the threshold.

        A BOS token in front is left out. With return_dict everything that was counted is returned. Raises
        GenerationError for texts of which only some start with BOS, and for texts too short to score.
        """
        ids = _as_rows(input_ids)
        has_bos = ids[:, 0] == self._bos_token_id
        if has_bos.any() != has_bos.all():
            raise GenerationError(
                "some texts start with the BOS token and others do not; tokenize all of them in one way"
            )
        if has_bos.all():
            ids = ids[:, 1:]
        if ids.shape[1] <= self._config.context_width:
            raise GenerationError(
                f"texts of {ids.shape[1]} tokens are too short: context_width is {self._config.context_width}, "
                "and at least one token more is needed"
            )
        counts = np.array([self._count(row.tolist()) for row in ids], dtype=np.float64)
        num_scored, num_green = counts[:, 0], counts[:, 1]
        ratio = self._config.greenlist_ratio
        z_score = (num_green - ratio * num_scored) / np.sqrt(num_scored * ratio * (1 - ratio))
        prediction: npt.NDArray[np.bool_] = z_score > z_threshold
        if not return_dict:
            return prediction
        p_value = np.array([0.5 * math.erfc(z / math.sqrt(2.0)) for z in z_score])
        return WatermarkDetectorOutput(
            num_tokens_scored=num_scored,
            num_green_tokens=num_green,
            green_fraction=num_green / num_scored,
            z_score=z_score,
            p_value=p_value,
            prediction=prediction,
            confidence=1 - p_value,
        )

    def _count(self, ids: list[int]) -> tuple[int, int]:
        """Return how many tokens of a text were scored, and how many of them are green."""
        is_selfhash = self._config.seeding_scheme == "selfhash"
        width = self._config.context_width + 1 - is_selfhash
        ngrams = Counter(tuple(ids[i : i + width]) for i in range(len(ids) - width + 1))
        times = dict.fromkeys(ngrams, 1) if self._ignore_repeated_ngrams else ngrams
        return sum(times.values()), sum(count for ngram, count in times.items() if self._is_green(ngram))

    def _look_up(self, ngram: tuple[int, ...]) -> bool:
        prefix = ngram if self._config.seeding_scheme == "selfhash" else ngram[:-1]
        return is_green(prefix, ngram[-1], self._vocab_size, self._config)


class SynthIDTextScorer:
    """Scores texts for the tournament's watermark by their mean g-value, about 0.5 without a watermark.

    Transformers' SynthIDTextWatermarkDetector feeds the same g-values and masks to a Bayesian network that must
    be trained for each set of keys; this is the score of the paper that needs no training. The longer the text,
    the surer it is: with n tokens scored the standard deviation without a watermark is about 0.5 / sqrt(n *
    number of keys).

    weighted: weight the rounds from 10 for the first down to 1 for the last, as the first ones carry more.
    """

    def __init__(
        self,
        watermarking_config: SynthIDTextWatermarkingConfig | Mapping[str, Any],
        *,
        eos_token_id: int | None = None,
        weighted: bool = True,
    ) -> None:
        """Take the settings of the generation; what follows an end token is not scored."""
        self._config = _checked(watermarking_config, SynthIDTextWatermarkingConfig)
        self._eos_token_id = eos_token_id
        depth = len(self._config.keys)
        weights = np.linspace(10.0, 1.0, depth) if weighted else np.ones(depth)
        self._weights = weights / weights.sum()

    def __call__(self, input_ids: Any) -> _Numbers:
        """Return the scores (B,) of generated texts (B, T) without their prompts; NaN where none counts.

        Only tokens with a whole n-gram count, whose context has not just occurred. Raises GenerationError for
        texts shorter than ngram_len.
        """
        ids = _as_rows(input_ids)
        if ids.shape[1] < self._config.ngram_len:
            raise GenerationError(
                f"texts of {ids.shape[1]} tokens are too short: ngram_len is {self._config.ngram_len}"
            )
        return np.array([self._score(row) for row in ids])

    def _score(self, ids: Ids) -> float:
        counts = context_is_new(ids.tolist(), self._config)
        ends = np.flatnonzero(ids == (-1 if self._eos_token_id is None else self._eos_token_id))
        if len(ends):
            counts[max(0, int(ends[0]) - self._config.ngram_len + 1) :] = False
        if not counts.any():
            return math.nan
        g_values = compute_g_values(ids.tolist(), self._config)[counts]
        return float((g_values @ self._weights).mean())


def _checked(value: Any, kind: type[Any]) -> Any:
    if isinstance(value, Mapping):
        value = watermarking_config(value)
    if not isinstance(value, BaseWatermarkingConfig) or not isinstance(value, kind):
        raise GenerationError(
            f"watermarking_config must be a {kind.__name__} or a dict of one, got {value!r}"
        )
    value.validate()
    return value


def _as_rows(input_ids: Any) -> Ids:
    if hasattr(input_ids, "detach"):  # a tensor, wherever it is
        input_ids = input_ids.detach().cpu().numpy()
    ids = np.asarray(input_ids)
    if ids.ndim != 2 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise GenerationError(
            f"input_ids must be token ids of shape (batch, tokens), got {ids.dtype} of shape {ids.shape}"
        )
    return ids.astype(np.int64)
