"""The table of generation options: which are supported, their checks, and why the others are not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from gpt2kit.errors import GenerationError

# What Transformers uses for a field that nobody set.
DEFAULTS: dict[str, Any] = {
    "max_length": 20,
    "min_length": 0,
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "num_return_sequences": 1,
}

# Only used when sampling, with the values that switch them off.
SAMPLING_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "temperature": (1.0,),
    "top_k": (0, 50),
    "top_p": (1.0,),
    "min_p": (0.0,),
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
}

_NO_BEAMS = "beam search is not available; generation is greedy or sampled"
_NO_ASSISTANT = "assisted generation is not available"
_NO_OUTPUTS = "generation returns token ids only; use engine.forward for logits and hidden states"
_NO_PROCESSOR = "this processor is not available; pass a callable in logits_processor instead"
_NO_CACHE_CHOICE = "the cache grows as needed and is never quantised or offloaded"

# Transformers' other fields: the values that change nothing, and the reason why no other is taken.
UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "num_beams": ((1,), _NO_BEAMS),
    "early_stopping": ((False,), _NO_BEAMS),
    "length_penalty": ((1.0,), _NO_BEAMS),
    "num_beam_groups": ((1,), _NO_BEAMS),
    "diversity_penalty": ((0.0,), _NO_BEAMS),
    "constraints": ((), _NO_BEAMS),
    "force_words_ids": ((), _NO_BEAMS),
    "penalty_alpha": ((0.0,), "contrastive search is not available"),
    "low_memory": ((False,), "contrastive search is not available"),
    "dola_layers": ((), "DoLa decoding is not available"),
    "use_mtp": ((False,), "GPT-2 has no multi-token prediction"),
    "use_cache": ((True,), "generation always uses the cache"),
    "cache_implementation": (("dynamic", "static"), _NO_CACHE_CHOICE),
    "cache_config": ((), _NO_CACHE_CHOICE),
    "max_cache_len": ((), _NO_CACHE_CHOICE),
    "compile_config": ((), "nothing is compiled at run time"),
    "disable_compile": ((True, False), "nothing is compiled at run time"),
    "prefill_chunk_size": ((), "the engine chooses how to split a prompt"),
    "continuous_batching_config": ((), "rows join and leave the batch without settings"),
    "top_h": ((), _NO_PROCESSOR),
    "encoder_repetition_penalty": ((1.0,), "GPT-2 has no encoder"),
    "encoder_no_repeat_ngram_size": ((0,), "GPT-2 has no encoder"),
    "decoder_start_token_id": ((), "GPT-2 has no encoder"),
    "renormalize_logits": ((False,), _NO_PROCESSOR),
    "forced_bos_token_id": ((), _NO_PROCESSOR),
    "forced_eos_token_id": ((), _NO_PROCESSOR),
    "remove_invalid_values": ((False,), _NO_PROCESSOR),
    "exponential_decay_length_penalty": ((), _NO_PROCESSOR),
    "suppress_tokens": (([],), "use bad_words_ids"),
    "begin_suppress_tokens": (([],), _NO_PROCESSOR),
    "sequence_bias": ((), _NO_PROCESSOR),
    "token_healing": ((False,), "token healing is not available"),
    "guidance_scale": ((1, 1.0), "classifier-free guidance is not available"),
    "watermarking_config": ((), "watermarking is not available"),
    "output_attentions": ((False,), _NO_OUTPUTS),
    "output_hidden_states": ((False,), _NO_OUTPUTS),
    "output_scores": ((False,), _NO_OUTPUTS),
    "output_logits": ((False,), _NO_OUTPUTS),
    "return_dict_in_generate": ((False,), _NO_OUTPUTS),
    "is_assistant": ((False,), _NO_ASSISTANT),
    "num_assistant_tokens": ((5, 20), _NO_ASSISTANT),
    "num_assistant_tokens_schedule": (("constant", "heuristic"), _NO_ASSISTANT),
    "assistant_confidence_threshold": ((0.4,), _NO_ASSISTANT),
    "assistant_lookbehind": ((10,), _NO_ASSISTANT),
    "target_lookbehind": ((10,), _NO_ASSISTANT),
    "assistant_early_exit": ((), _NO_ASSISTANT),
    "assistant_ensemble_weight": ((), _NO_ASSISTANT),
    "prompt_lookup_num_tokens": ((), _NO_ASSISTANT),
    "max_matching_ngram_size": ((), _NO_ASSISTANT),
    "speculation_type": ((), _NO_ASSISTANT),
}

# Arguments of Transformers' generate() that belong beside a configuration, not in it.
_CALL_ARGUMENTS = (
    "logits_processor",
    "stopping_criteria",
    "prefix_allowed_tokens_fn",
    "synced_gpus",
    "assistant_model",
    "streamer",
    "negative_prompt_ids",
    "negative_prompt_attention_mask",
)


def check_supported(name: str, value: Any) -> None:
    """Raise GenerationError, with the reason, for a value that asks for something we cannot do."""
    neutral, reason = UNSUPPORTED[name]
    if value is None or any(
        value == ok and isinstance(value, bool) == isinstance(ok, bool) for ok in neutral
    ):
        return
    allowed = " or ".join(repr(ok) for ok in (*neutral, None))
    raise GenerationError(f"{name}={value!r} is not supported: {reason}; leave it at {allowed}")


def unknown_message(name: str, others: Iterable[str] = ()) -> str:
    """Say that there is no such option, with the nearest name that there is; `others` are names besides."""
    if name in _CALL_ARGUMENTS:
        return f"{name} is not a generation option; pass it to the generating call itself, if it takes one"
    import difflib

    near = difflib.get_close_matches(name, [*others, *CHECKS, *UNSUPPORTED], n=1)
    hint = (
        f"; did you mean {near[0]}?" if near else f"; known options: {', '.join(sorted([*others, *CHECKS]))}"
    )
    return f"there is no generation option {name!r}{hint}"


def check_value(name: str, value: Any) -> Any:
    """Return the value of a supported field in its plain type; raises GenerationError for others."""
    if value is None:
        return None
    return CHECKS[name](name, value)


def _integer(at_least: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise GenerationError(f"{name} must be an int of at least {at_least}, got {value!r}")
        number = int(value.__index__())
        if number < at_least:
            raise GenerationError(f"{name} must be at least {at_least}, got {number}")
        return number

    return check


def _number(allowed: str, is_allowed: Callable[[float], bool]) -> Callable[[str, Any], float]:
    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not hasattr(value, "__float__"):
            raise GenerationError(f"{name} must be a number {allowed}, got {value!r}")
        number = float(value)
        if not math.isfinite(number) or not is_allowed(number):
            hint = (
                "; for greedy decoding set do_sample=False" if name == "temperature" and number == 0.0 else ""
            )
            raise GenerationError(f"{name} must be {allowed}, got {value!r}{hint}")
        return number

    return check


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise GenerationError(f"{name} must be True or False, got {value!r}")
    return value


def _strings(name: str, value: Any) -> list[str]:
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, (list, tuple)) or not all(isinstance(item, str) and item for item in strings):
        raise GenerationError(f"{name} must be a string or a list of strings, none empty, got {value!r}")
    return list(strings)


def _token_ids(name: str, value: Any) -> int | list[int]:
    if isinstance(value, (list, tuple)):
        return [_integer(0)(name, item) for item in value]
    return _integer(0)(name, value)


def _words(name: str, value: Any) -> list[list[int]]:
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(word, (list, tuple)) and word for word in value
    ):
        raise GenerationError(f"{name} must be a list of non-empty lists of token ids, got {value!r}")
    return [[_integer(0)(name, token_id) for token_id in word] for word in value]


# Every supported field and its check, in the order of Transformers' documentation.
CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "max_length": _integer(1),
    "max_new_tokens": _integer(1),
    "min_length": _integer(0),
    "min_new_tokens": _integer(0),
    "max_time": _number("over 0 (seconds)", lambda x: x > 0.0),
    "stop_strings": _strings,
    "do_sample": _boolean,
    "temperature": _number("over 0", lambda x: x > 0.0),
    "top_k": _integer(0),
    "top_p": _number("from 0 to 1", lambda x: 0.0 <= x <= 1.0),
    "min_p": _number("from 0 to 1", lambda x: 0.0 <= x <= 1.0),
    "typical_p": _number("over 0 and at most 1", lambda x: 0.0 < x <= 1.0),
    "epsilon_cutoff": _number("from 0 to below 1", lambda x: 0.0 <= x < 1.0),
    "eta_cutoff": _number("from 0 to below 1", lambda x: 0.0 <= x < 1.0),
    "repetition_penalty": _number("over 0", lambda x: x > 0.0),
    "no_repeat_ngram_size": _integer(0),
    "bad_words_ids": _words,
    "num_return_sequences": _integer(1),
    "pad_token_id": _integer(0),
    "bos_token_id": _integer(0),
    "eos_token_id": _token_ids,
}
