"""The processors of both watermarks under Transformers' names, over tensors."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt2kit.config import SynthIDTextWatermarkingConfig, WatermarkingConfig
from gpt2kit.generation.processors import synthid, watermark
from gpt2kit.torch_generation.logits_processor import LogitsProcessor, by_row


class WatermarkLogitsProcessor(LogitsProcessor):
    """Favours the green tokens of a WatermarkingConfig with these settings."""

    def __init__(
        self,
        vocab_size: int,
        device: Any,
        greenlist_ratio: float = 0.25,
        bias: float = 2.0,
        hashing_key: int = 15485863,
        seeding_scheme: str = "lefthash",
        context_width: int = 1,
    ) -> None:
        self.vocab_size = vocab_size
        self._config = WatermarkingConfig(greenlist_ratio, bias, hashing_key, seeding_scheme, context_width)
        self._config.validate()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return by_row(lambda _, ids, row: watermark.favor_green(ids, row, self._config), input_ids, scores)


class SynthIDTextWatermarkLogitsProcessor(LogitsProcessor):
    """Plays the tournament of a SynthIDTextWatermarkingConfig with these settings.

    One object serves one generation: the input_ids of its first call are the prompts.
    """

    def __init__(
        self,
        ngram_len: int,
        keys: list[int],
        sampling_table_size: int,
        sampling_table_seed: int,
        context_history_size: int,
        device: Any,
        skip_first_ngram_calls: bool = False,
        debug_mode: bool = False,
    ) -> None:
        self._config = SynthIDTextWatermarkingConfig(
            ngram_len,
            keys,
            context_history_size,
            sampling_table_seed,
            sampling_table_size,
            skip_first_ngram_calls,
            debug_mode,
        )
        self._config.validate()
        self.ngram_len = ngram_len
        self._num_prompt: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._num_prompt is None:
            self._num_prompt = input_ids.shape[1]
        begin = self._num_prompt
        return by_row(
            lambda _, ids, row: synthid.play_tournament(ids[begin:], row, self._config), input_ids, scores
        )

    def compute_g_values(self, input_ids: Tensor) -> Tensor:
        """Return the g-values (B, T - ngram_len + 1, len(keys)) of texts (B, T)."""
        rows = [synthid.compute_g_values(ids, self._config) for ids in input_ids.tolist()]
        return torch.from_numpy(np.stack(rows)).to(input_ids.device)

    def compute_context_repetition_mask(self, input_ids: Tensor) -> Tensor:
        """Return where a context is new, bool (B, T - ngram_len + 1)."""
        rows = [synthid.context_is_new(ids, self._config) for ids in input_ids.tolist()]
        return torch.from_numpy(np.stack(rows)).to(input_ids.device)

    def compute_eos_token_mask(self, input_ids: Tensor, eos_token_id: int) -> Tensor:
        """Return what comes before the first end token, 1 or 0, (B, T)."""
        return ((input_ids == eos_token_id).cumsum(dim=1) == 0).to(input_ids.dtype)

    def expected_mean_g_value(self, vocab_size: int, coinflip_prob: float = 0.5) -> float:
        """Return the mean g-value to expect after one round with uniform probabilities."""
        return coinflip_prob + coinflip_prob * (1 - coinflip_prob) * (1 - 1 / vocab_size)
