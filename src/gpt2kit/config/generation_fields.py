"""The tables of generation options: what each may be, their defaults, and which nothing acts on, and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpt2kit.config.compile_config import CompileConfig
from gpt2kit.config.generation_checks import (
    Check,
    boolean,
    choice,
    decay,
    forced_words,
    instance,
    integer,
    layers,
    number,
    objects,
    sequence_bias,
    strings,
    token_id_list,
    token_ids,
    words,
)
from gpt2kit.config.watermarking import watermarking_config
from gpt2kit.errors import GenerationError

# Every field and what it may be besides None, in the order of Transformers' documentation.
CHECKS: dict[str, Check] = {
    "max_length": integer(1),
    "max_new_tokens": integer(1),
    "min_length": integer(0),
    "min_new_tokens": integer(0),
    "early_stopping": choice(True, False, "never"),
    "max_time": number("over 0 (seconds)", lambda x: x > 0.0),
    "stop_strings": strings,
    "do_sample": boolean,
    "num_beams": integer(1),
    "use_mtp": boolean,
    "use_cache": boolean,
    "cache_implementation": choice(
        "dynamic",
        "static",
        "offloaded",
        "offloaded_static",
        "quantized",
        "paged",
        # Second names of static caches in files of older releases.
        "sliding_window",
        "hybrid",
        "hybrid_chunked",
        "offloaded_hybrid",
        "offloaded_hybrid_chunked",
    ),
    "cache_config": instance(dict, "a dict of the cache's arguments"),
    "max_cache_len": integer(1),
    "temperature": number("over 0", lambda x: x > 0.0),
    "top_k": integer(0),
    "top_p": number("from 0 to 1", lambda x: 0.0 <= x <= 1.0),
    "min_p": number("from 0 to 1", lambda x: 0.0 <= x <= 1.0),
    "top_h": number("over 0 and at most 1", lambda x: 0.0 < x <= 1.0),
    "typical_p": number("over 0 and at most 1", lambda x: 0.0 < x <= 1.0),
    "epsilon_cutoff": number("from 0 to below 1", lambda x: 0.0 <= x < 1.0),
    "eta_cutoff": number("from 0 to below 1", lambda x: 0.0 <= x < 1.0),
    "repetition_penalty": number("over 0", lambda x: x > 0.0),
    "encoder_repetition_penalty": number("over 0", lambda x: x > 0.0),
    "length_penalty": number("a finite number", lambda x: True),
    "no_repeat_ngram_size": integer(0),
    "bad_words_ids": words,
    "renormalize_logits": boolean,
    "forced_bos_token_id": integer(0),
    "forced_eos_token_id": token_ids,
    "remove_invalid_values": boolean,
    "exponential_decay_length_penalty": decay,
    "suppress_tokens": token_id_list,
    "begin_suppress_tokens": token_id_list,
    "sequence_bias": sequence_bias,
    "token_healing": boolean,
    "guidance_scale": number("a finite number", lambda x: True),
    "watermarking_config": lambda name, value: watermarking_config(value),
    "num_return_sequences": integer(1),
    "output_attentions": boolean,
    "output_hidden_states": boolean,
    "output_scores": boolean,
    "output_logits": boolean,
    "return_dict_in_generate": boolean,
    "pad_token_id": integer(0),
    "bos_token_id": integer(0),
    "eos_token_id": token_ids,
    "encoder_no_repeat_ngram_size": integer(0),
    "decoder_start_token_id": token_ids,
    "is_assistant": boolean,
    "num_assistant_tokens": integer(1),
    "num_assistant_tokens_schedule": choice("constant", "heuristic", "heuristic_transient"),
    "assistant_confidence_threshold": number("from 0 to 1", lambda x: 0.0 <= x <= 1.0),
    "prompt_lookup_num_tokens": integer(1),
    "max_matching_ngram_size": integer(1),
    "assistant_early_exit": integer(1),
    "assistant_lookbehind": integer(1),
    "target_lookbehind": integer(1),
    "assistant_ensemble_weight": number("between 0 and 1", lambda x: 0.0 < x < 1.0),
    "speculation_type": choice("dflash"),
    "compile_config": instance(CompileConfig, "a CompileConfig"),
    "disable_compile": boolean,
    "continuous_batching_config": instance(object, "an object"),
    "low_memory": boolean,
    "penalty_alpha": number("from 0 to 1", lambda x: 0.0 <= x <= 1.0),
    "dola_layers": layers,
    "diversity_penalty": number("at least 0", lambda x: x >= 0.0),
    "num_beam_groups": integer(1),
    "constraints": objects,
    "force_words_ids": forced_words,
    "prefill_chunk_size": integer(1),
    "long_generation": choice("slide"),
}

# What Transformers uses for a field that nobody set.
DEFAULTS: dict[str, Any] = {
    "max_length": 20,
    "min_length": 0,
    "do_sample": False,
    "use_cache": True,
    "early_stopping": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "num_return_sequences": 1,
    "output_scores": False,
    "return_dict_in_generate": False,
    "remove_invalid_values": False,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "encoder_repetition_penalty": 1.0,
    "num_assistant_tokens": 20,
    "num_assistant_tokens_schedule": "constant",
    "assistant_confidence_threshold": 0.4,
    "assistant_lookbehind": 10,
    "target_lookbehind": 10,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
}

# Only used when sampling, with the values that switch them off.
SAMPLING_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "temperature": (1.0,),
    "top_k": (0, 50),
    "top_p": (1.0,),
    "min_p": (0.0,),
    "top_h": (0.0,),  # not 1: that still keeps the first 100 tokens only
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
}

_NO_ASSISTANT = "assisted generation is not available"
_NO_CACHE_CHOICE = "the cache grows as needed and is never quantised or offloaded"

# Fields that no code acts on: the values that change nothing, and why no other can be generated with.
UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "use_mtp": ((False,), "GPT-2 has no multi-token prediction"),
    "use_cache": ((True,), "generation always uses the cache"),
    "cache_implementation": (("dynamic", "static"), _NO_CACHE_CHOICE),
    "cache_config": ((), _NO_CACHE_CHOICE),
    "max_cache_len": ((), _NO_CACHE_CHOICE),
    "compile_config": ((), "nothing is compiled at run time"),
    "disable_compile": ((True, False), "nothing is compiled at run time"),
    "prefill_chunk_size": ((), "the engine chooses how to split a prompt"),
    "continuous_batching_config": ((), "rows join and leave the batch without settings"),
    "decoder_start_token_id": ((), "GPT-2 has no encoder"),
    "token_healing": ((False,), "token healing is not available"),
    "is_assistant": ((False,), _NO_ASSISTANT),
    "assistant_lookbehind": ((10,), _NO_ASSISTANT),
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
    """Raise GenerationError, with the reason, for a checked value that asks for something we cannot do."""
    if name not in UNSUPPORTED:
        return
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

    near = difflib.get_close_matches(name, [*others, *CHECKS], n=1)
    hint = (
        f"; did you mean {near[0]}?"
        if near
        else f"; known options: {', '.join(sorted({*others, *CHECKS} - UNSUPPORTED.keys()))}"
    )
    return f"there is no generation option {name!r}{hint}"


def check_value(name: str, value: Any) -> Any:
    """Return the value of a field in its plain type; raises GenerationError for what it may not be."""
    if value is None:
        return None
    return CHECKS[name](name, value)
