"""The chain of logits processors of a prompt: float32 scores (V,) in, float32 scores (V,) out.

The processors are functions in bans.py, penalties.py, warpers.py, watermark.py and synthid.py; here they are put
in Transformers' order. None changes its argument.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpt2kit.config.watermarking import SynthIDTextWatermarkingConfig, WatermarkingConfig
from gpt2kit.errors import GenerationError
from gpt2kit.generation.batch import BatchProcessor
from gpt2kit.generation.options import Options
from gpt2kit.generation.processors.bans import (
    allow_tokens,
    ban_ngrams_of,
    ban_repeated_ngrams,
    ban_tokens,
    ban_words,
    force_tokens,
)
from gpt2kit.generation.processors.custom import Custom
from gpt2kit.generation.processors.penalties import (
    bias_sequences,
    decay_length,
    favor_prompt,
    make_finite,
    normalize,
    penalize_repetition,
)
from gpt2kit.generation.processors.scores import LogitsProcessor, Scores
from gpt2kit.generation.processors.synthid import play_tournament
from gpt2kit.generation.processors.warpers import (
    cut_epsilon,
    cut_eta,
    keep_min_p,
    keep_top_h,
    keep_top_k,
    keep_top_p,
    keep_typical,
    scale_temperature,
)
from gpt2kit.generation.processors.watermark import favor_green
from gpt2kit.generation.sampling import no_choice_message

__all__ = ["LogitsProcessor", "Scores", "build_processors", "checked_custom", "process"]


def build_processors(
    options: Options,
    prompt_index: int,
    prompt: Sequence[int],
    custom: Custom | None = None,
    *,
    min_tokens_to_keep: int = 1,
) -> list[LogitsProcessor]:
    """Return the processors of one prompt in the order in which they are applied.

    guidance_scale, sequence_bias, encoder_repetition_penalty, repetition_penalty, no_repeat_ngram_size,
    encoder_no_repeat_ngram_size, bad_words_ids, min_new_tokens (min_length is folded into it),
    prefix_allowed_tokens_fn, forced_bos_token_id, forced_eos_token_id, remove_invalid_values,
    exponential_decay_length_penalty, suppress_tokens, begin_suppress_tokens, the custom ones; then when
    sampling temperature, top_h, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff; then the watermark
    and renormalize_logits.

    min_tokens_to_keep: what top_k and those after it leave at least; sampling with beams needs one more than
    there are end tokens. Over 1, tokens that prefix_allowed_tokens_fn allows but another option bans stay
    banned, as another beam may have a choice.
    """
    custom = custom if custom is not None else Custom()
    chain = _penalties_and_bans(options, prompt_index, list(prompt), custom, is_alone=min_tokens_to_keep == 1)
    chain += [checked_custom(processor) for processor in custom.processors]
    if options.do_sample:
        chain += _warpers(options, min_tokens_to_keep)
    return chain + _watermark(options, len(prompt))


def _penalties_and_bans(
    o: Options, prompt_index: int, prompt: list[int], custom: Custom, *, is_alone: bool
) -> list[LogitsProcessor]:
    chain: list[LogitsProcessor] = []
    num_prompt = len(prompt)
    guidance, allowed = custom.guidance, custom.prefix_allowed_tokens_fn
    if guidance is not None:
        chain.append(lambda ids, scores: guidance.mix(prompt_index, ids[num_prompt:], scores))
    if o.sequence_bias:
        chain.append(lambda ids, scores: bias_sequences(ids, scores, o.sequence_bias))
    if o.encoder_repetition_penalty != 1.0:
        chain.append(lambda ids, scores: favor_prompt(prompt, scores, o.encoder_repetition_penalty))
    if o.repetition_penalty != 1.0:
        chain.append(lambda ids, scores: penalize_repetition(ids, scores, o.repetition_penalty))
    if o.no_repeat_ngram_size > 0:
        chain.append(lambda ids, scores: ban_repeated_ngrams(ids, scores, o.no_repeat_ngram_size))
    if o.encoder_no_repeat_ngram_size > 0:
        size = o.encoder_no_repeat_ngram_size
        chain.append(lambda ids, scores: ban_ngrams_of(prompt, ids, scores, size))
    if o.bad_words_ids:
        chain.append(lambda ids, scores: ban_words(ids, scores, o.bad_words_ids))
    min_length = num_prompt + o.min_new_tokens[prompt_index]
    if o.eos_token_ids and min_length > num_prompt:
        chain.append(
            lambda ids, scores: ban_tokens(scores, o.eos_token_ids) if len(ids) < min_length else scores
        )
    if allowed is not None:
        chain.append(
            lambda ids, scores: allow_tokens(scores, allowed(prompt_index, list(ids)), must_choose=is_alone)
        )
    chain += _forced(o, prompt_index, num_prompt)
    if o.remove_invalid_values:
        chain.append(lambda ids, scores: make_finite(scores))
    if o.exponential_decay_length_penalty is not None and o.eos_token_ids:
        start, factor = o.exponential_decay_length_penalty
        start += num_prompt
        chain.append(
            lambda ids, scores: (
                decay_length(scores, o.eos_token_ids, factor, len(ids) - start)
                if len(ids) > start
                else scores
            )
        )
    if o.suppress_tokens:
        chain.append(lambda ids, scores: ban_tokens(scores, o.suppress_tokens))
    if o.begin_suppress_tokens:
        begin = num_prompt + (num_prompt == 1 and o.forced_bos_token_id is not None)
        chain.append(
            lambda ids, scores: ban_tokens(scores, o.begin_suppress_tokens) if len(ids) == begin else scores
        )
    return chain


def _forced(o: Options, prompt_index: int, num_prompt: int) -> list[LogitsProcessor]:
    chain: list[LogitsProcessor] = []
    bos, eos = o.forced_bos_token_id, o.forced_eos_token_ids
    if bos is not None:
        chain.append(lambda ids, scores: force_tokens(scores, [bos]) if len(ids) == 1 else scores)
    if eos:
        last = num_prompt + o.max_new_tokens[prompt_index] - 1
        chain.append(lambda ids, scores: force_tokens(scores, eos) if len(ids) == last else scores)
    return chain


def _warpers(o: Options, min_tokens_to_keep: int) -> list[LogitsProcessor]:
    chain: list[LogitsProcessor] = [_require_choice]
    least = min_tokens_to_keep
    if o.temperature != 1.0:
        chain.append(lambda ids, scores: scale_temperature(scores, o.temperature))
    if o.top_h > 0.0:
        chain.append(lambda ids, scores: keep_top_h(scores, o.top_h))
    if o.top_k > 0:
        chain.append(lambda ids, scores: keep_top_k(scores, o.top_k, least))
    if o.top_p < 1.0:
        chain.append(lambda ids, scores: keep_top_p(scores, o.top_p, least))
    if o.min_p > 0.0:
        chain.append(lambda ids, scores: keep_min_p(scores, o.min_p, least))
    if o.typical_p < 1.0:
        chain.append(lambda ids, scores: keep_typical(scores, o.typical_p, least))
    if o.epsilon_cutoff > 0.0:
        chain.append(lambda ids, scores: cut_epsilon(scores, o.epsilon_cutoff, least))
    if o.eta_cutoff > 0.0:
        chain.append(lambda ids, scores: cut_eta(scores, o.eta_cutoff, least))
    return chain


def _watermark(o: Options, num_prompt: int) -> list[LogitsProcessor]:
    chain: list[LogitsProcessor] = []
    config = o.watermarking_config
    if isinstance(config, WatermarkingConfig):
        green = config
        chain.append(lambda ids, scores: favor_green(ids, scores, green))
    elif isinstance(config, SynthIDTextWatermarkingConfig):
        synthid = config
        chain.append(lambda ids, scores: play_tournament(ids[num_prompt:], scores, synthid))
    if o.renormalize_logits:
        chain.append(lambda ids, scores: normalize(scores))
    return chain


def process(chain: Sequence[LogitsProcessor], token_ids: list[int], scores: Scores) -> Scores:
    """Apply the processors in order; raises GenerationError when one changes the shape of the scores."""
    for processor in chain:
        scores = processor(token_ids, scores)
    return scores


def checked_custom(processor: LogitsProcessor) -> LogitsProcessor:
    """Wrap a caller's processor: a wrong shape or type is one clear error, and its scores are float32.

    One for whole batches is returned as it is, for the loop to recognise.
    """
    if isinstance(processor, BatchProcessor):
        return processor

    def run(token_ids: list[int], scores: Scores) -> Scores:
        result = np.asarray(processor(token_ids, scores.copy()))
        if result.shape != scores.shape or not np.issubdtype(result.dtype, np.floating):
            raise GenerationError(
                f"logits_processor {processor!r} returned {result.dtype} {result.shape}; "
                f"it must return floating point scores of shape {scores.shape}"
            )
        return result.astype(np.float32, copy=False)

    return run


def _require_choice(token_ids: list[int], scores: Scores) -> Scores:
    """Stop before the probabilities are made when there are none; see sampling.sample."""
    highest = float(np.max(scores))
    if not np.isfinite(highest):
        raise GenerationError(no_choice_message(highest))
    return scores
