"""Options: everything a loop needs to know, resolved from the layers of configuration for given prompts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from gpt2kit.errors import GenerationError


@dataclass(frozen=True)
class Options:
    """Resolved options of one generation over some prompts; nothing is None but max_time.

    Switched off: temperature 1, top_k 0, top_p 1, min_p 0, typical_p 1, epsilon_cutoff 0, eta_cutoff 0,
    repetition_penalty 1, no_repeat_ngram_size 0, empty tuples. When do_sample is False, so are all sampling
    options.
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


def merge(
    options: Mapping[str, Any],
    config: GenerationConfig | None = None,
    model_config: GenerationConfig | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> GenerationConfig:
    """Join the layers, first one wins: options of the call, config passed, the model's own, defaults.

    A length in one layer hides the lengths (max_length, max_new_tokens) of the layers below it, and sampling
    options of `defaults` are taken only when sampling. Warns when options of the call or of `config` have no
    effect.
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
    for name in UNSUPPORTED:
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
) -> Options:
    """Settle every option for these prompts, before any work starts.

    prompt_lengths: tokens of each prompt, at least 1. default_new_tokens: the length when no layer sets one,
    as far as n_positions allows.
    Raises GenerationError when a prompt and its new tokens exceed n_positions, or an id is not in the
    vocabulary.
    """
    value = {name: getattr(merged, name) for name in CHECKS}
    value = {name: DEFAULTS.get(name) if item is None else item for name, item in value.items()}
    eos = _eos_token_ids(merged, model)
    bad_words = tuple(
        tuple(word) for word in value["bad_words_ids"] or () if not (len(word) == 1 and word[0] in eos)
    )
    for token_id in (token_id for word in bad_words for token_id in word):
        if token_id >= model.vocab_size:
            raise GenerationError(
                f"bad_words_ids holds {token_id}, but the vocabulary has ids 0 to {model.vocab_size - 1}"
            )
    for name, neutral in SAMPLING_NEUTRAL.items():
        if not value["do_sample"] or value[name] is None:
            value[name] = neutral[0]
    return Options(
        max_new_tokens=tuple(
            _max_new_tokens(merged, model, length, default_new_tokens) for length in prompt_lengths
        ),
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
    eos = merged.eos_token_id if merged.eos_token_id is not None else model.eos_token_id
    if eos is None:
        return ()
    return tuple(eos) if isinstance(eos, list) else (eos,)


def _max_new_tokens(merged: GenerationConfig, model: GPT2Config, prompt_length: int, default: int) -> int:
    room = model.n_positions - prompt_length
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
        wanted = min(default, max(room, 1))
    if wanted > room:
        raise GenerationError(
            f"prompt has {prompt_length} tokens and {wanted} new ones are asked for, but n_positions is "
            f"{model.n_positions}; shorten the prompt to {max(model.n_positions - wanted, 0)} tokens or "
            f"set max_new_tokens to at most {max(room, 0)}"
        )
    return wanted
