"""Logits processors under Transformers' names, over tensors: those that penalise, ban and force tokens.

Each is a thin class over the numpy function that generation uses itself; warpers.py, guidance_processors.py and
watermark_processors.py have the others.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gpt2kit.config.generation_checks import integer, positive, sequence_bias, words
from gpt2kit.errors import GenerationError
from gpt2kit.generation.processors import bans, penalties
from gpt2kit.torch_generation.logits_processor import LogitsProcessor, by_row, id_list


def _of_each_row(prompts: Tensor, num_rows: int) -> list[list[int]]:
    """Return the prompt of each row when prompts have several rows each."""
    ids: list[list[int]] = prompts.repeat_interleave(max(1, num_rows // len(prompts)), dim=0).tolist()
    return ids


def _pairs(value: Any) -> list[tuple[tuple[int, ...], float]]:
    checked = sequence_bias("sequence_bias", value)
    pairs = checked.items() if isinstance(checked, dict) else checked
    return [(tuple(ids), bias) for ids, bias in pairs]


class MinLengthLogitsProcessor(LogitsProcessor):
    """Bans the end tokens while a row, prompt included, is shorter than min_length."""

    def __init__(self, min_length: int, eos_token_id: int | list[int] | Tensor, device: str = "cpu") -> None:
        self.min_length = integer(0)("min_length", min_length)
        self.eos_token_id = id_list("eos_token_id", eos_token_id)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[-1] >= self.min_length:
            return scores.clone()
        return by_row(lambda _, ids, row: bans.ban_tokens(row, self.eos_token_id), input_ids, scores)


class MinNewTokensLengthLogitsProcessor(MinLengthLogitsProcessor):
    """Bans the end tokens before min_new_tokens new ones."""

    def __init__(
        self,
        prompt_length_to_skip: int,
        min_new_tokens: int,
        eos_token_id: int | list[int] | Tensor,
        device: str = "cpu",
    ) -> None:
        self.prompt_length_to_skip = integer(0)("prompt_length_to_skip", prompt_length_to_skip)
        self.min_new_tokens = integer(0)("min_new_tokens", min_new_tokens)
        super().__init__(prompt_length_to_skip + min_new_tokens, eos_token_id, device)


class RepetitionPenaltyLogitsProcessor(LogitsProcessor):
    """Divides positive scores and multiplies negative ones of tokens seen so far.

    prompt_ignore_length: tokens at the beginning that do not count, one number or a tensor (B,), such as padding.
    """

    def __init__(self, penalty: float, prompt_ignore_length: int | Tensor | None = None) -> None:
        self.penalty = positive("penalty", penalty)
        if isinstance(prompt_ignore_length, Tensor):
            if prompt_ignore_length.ndim != 1:
                raise GenerationError("`prompt_ignore_length` must be 1D")
        elif prompt_ignore_length is not None:
            integer(0)("prompt_ignore_length", prompt_ignore_length)
        self.prompt_ignore_length = prompt_ignore_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        ignored = self.prompt_ignore_length
        if isinstance(ignored, Tensor) and len(ignored) != len(input_ids):
            raise GenerationError(
                f"Incompatible `prompt_ignore_length` batch size: {len(ignored)} for {len(input_ids)} rows"
            )
        starts = ignored.tolist() if isinstance(ignored, Tensor) else [ignored or 0] * len(input_ids)
        return by_row(
            lambda index, ids, row: penalties.penalize_repetition(ids[starts[index] :], row, self.penalty),
            input_ids,
            scores,
        )


class EncoderRepetitionPenaltyLogitsProcessor(LogitsProcessor):
    """Favours (penalty over 1) or penalises the tokens of encoder_input_ids (B, S), the prompts."""

    def __init__(self, penalty: float, encoder_input_ids: Tensor) -> None:
        self.penalty = positive("penalty", penalty)
        self.encoder_input_ids = encoder_input_ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        prompts = _of_each_row(self.encoder_input_ids, len(scores))
        return by_row(
            lambda index, ids, row: penalties.favor_prompt(prompts[index], row, self.penalty),
            input_ids,
            scores,
        )


class NoRepeatNGramLogitsProcessor(LogitsProcessor):
    """Bans tokens that would repeat an n-gram of the row."""

    def __init__(self, ngram_size: int) -> None:
        self.ngram_size = integer(1)("ngram_size", ngram_size)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return by_row(
            lambda _, ids, row: bans.ban_repeated_ngrams(ids, row, self.ngram_size), input_ids, scores
        )


class EncoderNoRepeatNGramLogitsProcessor(LogitsProcessor):
    """Bans tokens that would complete an n-gram of encoder_input_ids (B, S) or (S,), the prompts."""

    def __init__(self, encoder_ngram_size: int, encoder_input_ids: Tensor) -> None:
        self.ngram_size = integer(1)("encoder_ngram_size", encoder_ngram_size)
        self.encoder_input_ids = encoder_input_ids if encoder_input_ids.ndim > 1 else encoder_input_ids[None]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        prompts = _of_each_row(self.encoder_input_ids, len(scores))
        return by_row(
            lambda index, ids, row: bans.ban_ngrams_of(prompts[index], ids, row, self.ngram_size),
            input_ids,
            scores,
        )


class SequenceBiasLogitsProcessor(LogitsProcessor):
    """Adds biases to the tokens that would complete sequences: {(ids): bias} or [[[ids], bias], ...]."""

    def __init__(self, sequence_bias: Any) -> None:
        self.sequence_bias = dict(_pairs(sequence_bias))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        over = [i for ids in self.sequence_bias for i in ids if i >= scores.shape[-1]]
        if over:
            raise GenerationError(
                f"The model vocabulary size is {scores.shape[-1]}, but the following tokens were being biased: "
                f"{over}"
            )
        biases = tuple(self.sequence_bias.items())
        return by_row(lambda _, ids, row: penalties.bias_sequences(ids, row, biases), input_ids, scores)


class NoBadWordsLogitsProcessor(LogitsProcessor):
    """Bans the last token of each word, a list of ids; words that are one end token are left out."""

    def __init__(
        self, bad_words_ids: list[list[int]], eos_token_id: int | list[int] | Tensor | None = None
    ) -> None:
        if not bad_words_ids:
            raise GenerationError(f"`bad_words_ids` has to be a non-empty list, but is {bad_words_ids!r}")
        ends = [] if eos_token_id is None else id_list("eos_token_id", eos_token_id)
        self.bad_word_ids = words("bad_words_ids", bad_words_ids)
        self._banned = [word for word in self.bad_word_ids if not (len(word) == 1 and word[0] in ends)]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return by_row(lambda _, ids, row: bans.ban_words(ids, row, self._banned), input_ids, scores)


class PrefixConstrainedLogitsProcessor(LogitsProcessor):
    """Leaves the tokens that a function (batch index, ids (T,)) -> allowed ids names.

    Where other bans left none of them in any beam of a batch item, they get score 0.
    """

    def __init__(
        self, prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]], num_beams: int
    ) -> None:
        self._prefix_allowed_tokens_fn = prefix_allowed_tokens_fn
        self._num_beams = integer(1)("num_beams", num_beams)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        allowed = [
            list(self._prefix_allowed_tokens_fn(index // self._num_beams, input_ids[index]))
            for index in range(len(input_ids))
        ]
        out = by_row(
            lambda index, _, row: bans.allow_tokens(row, allowed[index], must_choose=False), input_ids, scores
        )
        is_empty = out.amax(dim=-1).isneginf().view(-1, self._num_beams).all(dim=-1)
        for index in is_empty.repeat_interleave(self._num_beams).nonzero().flatten().tolist():
            out[index, allowed[index]] = 0.0
        return out


class ForcedBOSTokenLogitsProcessor(LogitsProcessor):
    """Forces a token after a row of one token."""

    def __init__(self, bos_token_id: int) -> None:
        self.bos_token_id = integer(0)("bos_token_id", bos_token_id)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[-1] != 1:
            return scores
        return by_row(lambda _, ids, row: bans.force_tokens(row, [self.bos_token_id]), input_ids, scores)


class ForcedEOSTokenLogitsProcessor(LogitsProcessor):
    """Forces an end token as the last of max_length."""

    def __init__(self, max_length: int, eos_token_id: int | list[int] | Tensor, device: str = "cpu") -> None:
        self.max_length = max_length
        self.eos_token_id = id_list("eos_token_id", eos_token_id)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[-1] != self.max_length - 1:
            return scores
        return by_row(lambda _, ids, row: bans.force_tokens(row, self.eos_token_id), input_ids, scores)


class InfNanRemoveLogitsProcessor(LogitsProcessor):
    """Puts 0 for NaN and the largest and smallest number of the scores' type for the infinities."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # Not by way of float32, whose limits other types do not have.
        return torch.nan_to_num(scores, nan=0.0)


class ExponentialDecayLengthPenalty(LogitsProcessor):
    """Raises the scores of end tokens from (start, factor) on; start counts new tokens."""

    def __init__(
        self,
        exponential_decay_length_penalty: tuple[int, float],
        eos_token_id: int | list[int] | Tensor,
        input_ids_seq_length: int,
    ) -> None:
        self.regulation_start = exponential_decay_length_penalty[0] + input_ids_seq_length
        self.regulation_factor = exponential_decay_length_penalty[1]
        self.eos_token_id = id_list("eos_token_id", eos_token_id)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        num_past = input_ids.shape[-1] - self.regulation_start
        if num_past <= 0:
            return scores
        factor, ends = self.regulation_factor, self.eos_token_id
        return by_row(
            lambda _, ids, row: penalties.decay_length(row, ends, factor, num_past), input_ids, scores
        )


class LogitNormalization(LogitsProcessor):
    """Makes log probabilities of scores."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return by_row(lambda _, ids, row: penalties.normalize(row), input_ids, scores)


class SuppressTokensLogitsProcessor(LogitsProcessor):
    """Bans tokens."""

    def __init__(self, suppress_tokens: Sequence[int] | Tensor, device: str = "cpu") -> None:
        self.suppress_tokens = id_list("suppress_tokens", suppress_tokens)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return by_row(lambda _, ids, row: bans.ban_tokens(row, self.suppress_tokens), input_ids, scores)


class SuppressTokensAtBeginLogitsProcessor(LogitsProcessor):
    """Bans tokens where a row has begin_index tokens."""

    def __init__(
        self, begin_suppress_tokens: Sequence[int] | Tensor, begin_index: int, device: str = "cpu"
    ) -> None:
        self.begin_suppress_tokens = id_list("begin_suppress_tokens", begin_suppress_tokens)
        self.begin_index = begin_index

    def set_begin_index(self, begin_index: int) -> None:
        """Change where the tokens are banned."""
        self.begin_index = begin_index

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[-1] != self.begin_index:
            return scores
        return by_row(lambda _, ids, row: bans.ban_tokens(row, self.begin_suppress_tokens), input_ids, scores)
