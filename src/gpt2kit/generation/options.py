"""Options: everything a loop needs to know, resolved from the layers of configuration for given prompts."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from itertools import chain, zip_longest
from typing import Any

from gpt2kit.config import GenerationConfig, GPT2Config
from gpt2kit.config.generation_fields import (
    CHECKS,
    DEFAULTS,
    SAMPLING_NEUTRAL,
    UNSUPPORTED,
    check_supported,
    unknown_message,
)
from gpt2kit.config.watermarking import BaseWatermarkingConfig
from gpt2kit.errors import GenerationError
from gpt2kit.generation.beams.constraints import Constraint, constraints_of
from gpt2kit.generation.strategies.options import Assistance, Strategy, resolve_assistance, resolve_strategy

# Scores are float32: a divisor past 2 ** 120 or below 2 ** -120 would leave no room for them.
_MAX_SCALE_BITS = 120


@dataclass(frozen=True)
class Options:
    """Resolved options of one generation over some prompts.

    Switched off: temperature 1, top_k 0, top_p 1, min_p 0, typical_p 1, epsilon_cutoff 0, eta_cutoff 0,
    repetition_penalty 1, no_repeat_ngram_size 0, empty tuples, max_time None. When do_sample is False, so are
    all sampling options. Fields with a default are those that a native loop does not know; the default
    switches them off.
    """

    max_new_tokens: tuple[int, ...]  # one a prompt, at least 1
    min_new_tokens: tuple[int, ...]  # one a prompt
    num_return_sequences: int
    eos_token_ids: tuple[int, ...]
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    epsilon_cutoff: float
    eta_cutoff: float
    repetition_penalty: float
    no_repeat_ngram_size: int
    bad_words_ids: tuple[tuple[int, ...], ...]
    stop_strings: tuple[str, ...]
    max_time: float | None  # seconds
    strategy: Strategy  # None is greedy decoding or sampling
    assistance: Assistance
    top_h: float = 0.0
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    encoder_repetition_penalty: float = 1.0
    encoder_no_repeat_ngram_size: int = 0
    forced_bos_token_id: int | None = None
    forced_eos_token_ids: tuple[int, ...] = ()
    remove_invalid_values: bool = False
    exponential_decay_length_penalty: tuple[int, float] | None = None  # (start in new tokens, factor)
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    guidance_scale: float = 1.0
    watermarking_config: BaseWatermarkingConfig | None = None
    renormalize_logits: bool = False
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False  # or "never"
    num_beam_groups: int = 1  # divides num_beams
    diversity_penalty: float = 0.0
    constraints: tuple[Constraint, ...] = ()  # constraints and force_words_ids, in their first states

    @property
    def is_native(self) -> bool:
        """Whether only options are in use that a native loop knows."""
        return all(
            getattr(self, field.name) == field.default
            for field in fields(self)
            if field.default is not MISSING
        )


def merge(
    options: Mapping[str, Any],
    config: GenerationConfig | None = None,
    model_config: GenerationConfig | None = None,
    defaults: Mapping[str, Any] | None = None,
    acted_on: Collection[str] = (),
) -> GenerationConfig:
    """Join the layers, first one wins: options of the call, config passed, the model's own, defaults.

    A length in one layer hides the lengths (max_length, max_new_tokens) of the layers below it, and sampling
    options of `defaults` are taken only when sampling. Warns when options of the call or of `config` have no
    effect. acted_on: fields that generation itself refuses and the caller sees to.
    """
    merged = GenerationConfig()
    asked = GenerationConfig()
    for name, value in options.items():
        if name not in CHECKS:
            raise GenerationError(unknown_message(name))
        setattr(asked, name, value)
    if config is not None:
        _fill(asked, config.options())
    _fill(merged, asked.options())
    if model_config is not None:
        _fill(merged, model_config.options())
    for name in UNSUPPORTED.keys() - set(acted_on):
        check_supported(name, getattr(merged, name))
    if defaults is not None:
        do_sample = merged.do_sample if merged.do_sample is not None else defaults.get("do_sample", False)
        _fill(merged, {k: v for k, v in defaults.items() if do_sample or k not in SAMPLING_NEUTRAL})
    merged.validate()
    reasons = merged.without_effect()
    unused = [
        f"{name}={getattr(asked, name)!r} has no effect: {reasons[name]}"
        for name in reasons
        if getattr(asked, name) is not None
    ]
    if unused:
        warnings.warn("; ".join(unused), UserWarning, stacklevel=3)
    return merged


def resolve(
    merged: GenerationConfig,
    model: GPT2Config,
    prompt_lengths: Sequence[int],
    *,
    default_new_tokens: int = DEFAULTS["max_length"],
    negative_lengths: Sequence[int] = (),
) -> Options:
    """Settle every option for these prompts, before any work starts.

    prompt_lengths: tokens of each prompt, at least 1. default_new_tokens: the length when no layer sets one,
    as far as n_positions allows. negative_lengths: tokens of each negative prompt, if there are any.
    Raises GenerationError when a prompt and its new tokens exceed n_positions without long_generation, an id
    is not in the vocabulary, or an option needs another that is missing.
    """
    value = {name: getattr(merged, name) for name in CHECKS}
    value = {name: DEFAULTS.get(name) if item is None else item for name, item in value.items()}
    eos = _eos_token_ids(merged, model)
    bad_words = tuple(
        tuple(word) for word in value["bad_words_ids"] or () if not (len(word) == 1 and word[0] in eos)
    )
    biases = _sequence_bias(value["sequence_bias"])
    forced_eos = _as_tuple(value["forced_eos_token_id"])
    for name, ids in (
        ("bad_words_ids", chain.from_iterable(bad_words)),
        ("sequence_bias", chain.from_iterable(ids for ids, _ in biases)),
        ("forced_bos_token_id", _as_tuple(value["forced_bos_token_id"])),
        ("forced_eos_token_id", forced_eos),
        ("suppress_tokens", value["suppress_tokens"] or ()),
        ("begin_suppress_tokens", value["begin_suppress_tokens"] or ()),
    ):
        _check_vocabulary(name, ids, model)
    if value["exponential_decay_length_penalty"] is not None and not eos:
        raise GenerationError(
            "exponential_decay_length_penalty raises the scores of end tokens and there is none; set eos_token_id"
        )
    for name, neutral in SAMPLING_NEUTRAL.items():
        if not value["do_sample"] or value[name] is None:
            value[name] = neutral[0]
    max_new_tokens = tuple(
        _max_new_tokens(merged, model, length, negative_length, default_new_tokens)
        for length, negative_length in zip_longest(prompt_lengths, negative_lengths, fillvalue=0)
    )
    beams = _beam_options(value, model, max(max_new_tokens, default=1)) if value["num_beams"] > 1 else {}
    return Options(
        max_new_tokens=max_new_tokens,
        min_new_tokens=tuple(
            merged.min_new_tokens
            if merged.min_new_tokens is not None
            else max(0, value["min_length"] - length)
            for length in prompt_lengths
        ),
        num_return_sequences=value["num_return_sequences"],
        eos_token_ids=eos,
        do_sample=value["do_sample"],
        temperature=value["temperature"],
        top_k=value["top_k"],
        top_p=value["top_p"],
        min_p=value["min_p"],
        typical_p=value["typical_p"],
        epsilon_cutoff=value["epsilon_cutoff"],
        eta_cutoff=value["eta_cutoff"],
        repetition_penalty=value["repetition_penalty"],
        no_repeat_ngram_size=value["no_repeat_ngram_size"],
        bad_words_ids=bad_words,
        stop_strings=tuple(value["stop_strings"] or ()),
        max_time=value["max_time"],
        strategy=resolve_strategy(merged, model),
        assistance=resolve_assistance(merged),
        top_h=value["top_h"],
        sequence_bias=biases,
        encoder_repetition_penalty=value["encoder_repetition_penalty"],
        encoder_no_repeat_ngram_size=value["encoder_no_repeat_ngram_size"],
        forced_bos_token_id=value["forced_bos_token_id"],
        forced_eos_token_ids=forced_eos,
        remove_invalid_values=value["remove_invalid_values"],
        exponential_decay_length_penalty=value["exponential_decay_length_penalty"],
        suppress_tokens=tuple(value["suppress_tokens"] or ()),
        begin_suppress_tokens=tuple(value["begin_suppress_tokens"] or ()),
        guidance_scale=1.0 if value["guidance_scale"] is None else value["guidance_scale"],
        watermarking_config=value["watermarking_config"],
        renormalize_logits=bool(value["renormalize_logits"]),
        **beams,
    )


def _fill(target: GenerationConfig, values: Mapping[str, Any]) -> None:
    """Set the fields of `target` that are not set yet."""
    has_length = target.max_length is not None or target.max_new_tokens is not None
    for name, value in values.items():
        if has_length and name in ("max_length", "max_new_tokens"):
            continue
        if getattr(target, name) is None:
            setattr(target, name, value)


def _eos_token_ids(merged: GenerationConfig, model: GPT2Config) -> tuple[int, ...]:
    return _as_tuple(merged.eos_token_id if merged.eos_token_id is not None else model.eos_token_id)


def _as_tuple(value: int | list[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


def _beam_options(value: Mapping[str, Any], model: GPT2Config, longest: int) -> dict[str, Any]:
    """Return the fields of Options for a search with beams; longest: the most new tokens of a prompt."""
    penalty = value["length_penalty"]
    if abs(penalty) * math.log2(longest) > _MAX_SCALE_BITS:
        raise GenerationError(
            f"length_penalty={penalty} is too far from 0: scores are divided by length ** length_penalty, which "
            f"{longest} new tokens make too large or too small a number"
        )
    return {
        "num_beams": value["num_beams"],
        "length_penalty": penalty,
        "early_stopping": value["early_stopping"],
        "num_beam_groups": value["num_beam_groups"],
        "diversity_penalty": value["diversity_penalty"] or 0.0,
        "constraints": tuple(
            constraints_of(value["constraints"], value["force_words_ids"], model.vocab_size)
        ),
    }


def _sequence_bias(
    value: Mapping[tuple[int, ...], float] | list[list[Any]] | None,
) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Return each sequence once, with its last bias, in the order of the first occurrence."""
    if value is None:
        return ()
    pairs = value.items() if isinstance(value, Mapping) else value
    return tuple({tuple(ids): bias for ids, bias in pairs}.items())


def _check_vocabulary(name: str, token_ids: Iterable[int], model: GPT2Config) -> None:
    for token_id in token_ids:
        if token_id >= model.vocab_size:
            raise GenerationError(
                f"{name} holds {token_id}, but the vocabulary has ids 0 to {model.vocab_size - 1}"
            )


def _max_new_tokens(
    merged: GenerationConfig, model: GPT2Config, prompt_length: int, negative_length: int, default: int
) -> int:
    longer, what = max((prompt_length, "prompt"), (negative_length, "negative prompt"))
    room = model.n_positions - longer
    if merged.max_new_tokens is not None:
        wanted = merged.max_new_tokens
    elif merged.max_length is not None:
        wanted = merged.max_length - prompt_length
        if wanted < 1:
            raise GenerationError(
                f"prompt has {prompt_length} tokens and max_length is {merged.max_length}, prompt included; "
                "raise max_length, or set max_new_tokens"
            )
    else:
        wanted = default if merged.long_generation else min(default, max(room, 1))
    if wanted > room and not merged.long_generation:
        raise GenerationError(
            f"{what} has {longer} tokens and {wanted} new ones are asked for, but n_positions is "
            f"{model.n_positions}; shorten the {what} to {max(model.n_positions - wanted, 0)} tokens or "
            f"set max_new_tokens to at most {max(room, 0)}, or set long_generation='slide'"
        )
    return wanted
