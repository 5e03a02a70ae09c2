"""Generation options beside each other: those that contradict, and those that have no effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2kit.config.generation_fields import SAMPLING_NEUTRAL
from gpt2kit.errors import GenerationError

if TYPE_CHECKING:
    from gpt2kit.config.generation import GenerationConfig

OUTPUT_FLAGS = ("output_attentions", "output_hidden_states", "output_scores", "output_logits")
_STATIC_CACHES = (
    "static",
    "offloaded_static",
    "sliding_window",
    "hybrid",
    "hybrid_chunked",
    "offloaded_hybrid",
    "offloaded_hybrid_chunked",
)


def check_contradictions(config: GenerationConfig) -> None:
    """Raise GenerationError for options that cannot both be met."""
    _check_num_return_sequences(config)
    _check_forced_tokens(config)
    _check_low_memory(config)
    _check_beam_groups(config)
    _check_constraints(config)


def _check_num_return_sequences(config: GenerationConfig) -> None:
    count, num_beams = config.num_return_sequences or 1, config.num_beams or 1
    if num_beams == 1 and count > 1 and not config.do_sample:
        raise GenerationError(
            f"num_return_sequences={count} needs do_sample=True or beams: greedy decoding would give the "
            "same text every time"
        )
    if 1 < num_beams < count:
        raise GenerationError(
            f"`num_return_sequences` ({count}) has to be smaller or equal to `num_beams` ({num_beams})"
        )


def _check_forced_tokens(config: GenerationConfig) -> None:
    suppressed = set(config.suppress_tokens or ())
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        value = getattr(config, name)
        forced = set(value) if isinstance(value, list) else {value} - {None}
        if forced and forced <= suppressed:
            raise GenerationError(
                f"Every token in `{name}` ({sorted(forced)}) is also in `suppress_tokens`, which leaves no "
                "token to choose; remove it from one of them"
            )


def _check_low_memory(config: GenerationConfig) -> None:
    if config.low_memory and (config.num_beams or 1) > 1:
        raise GenerationError(
            "`low_memory=True` is not supported with num_beams over 1: it is for contrastive search; leave it unset"
        )


def _check_beam_groups(config: GenerationConfig) -> None:
    groups, num_beams = config.num_beam_groups or 1, config.num_beams or 1
    if groups == 1:
        return
    if groups > num_beams:
        raise GenerationError(
            f"`num_beam_groups` ({groups}) has to be smaller or equal to `num_beams` ({num_beams})"
        )
    if num_beams % groups != 0:
        raise GenerationError(
            f"`num_beams` ({num_beams}) should be divisible by `num_beam_groups` ({groups}) for group beam search"
        )
    if config.do_sample:
        raise GenerationError(
            f"Diverse beam search cannot be used in sampling mode: with num_beam_groups={groups} do_sample must "
            "not be True"
        )
    if not config.diversity_penalty:
        raise GenerationError(
            "`diversity_penalty` should be greater than `0.0`, otherwise your groups will be identical: set it, "
            f"or num_beam_groups={groups} to 1"
        )


def _check_constraints(config: GenerationConfig) -> None:
    if config.constraints is None and config.force_words_ids is None:
        return
    message = (
        "one of `constraints`, `force_words_ids` is not `None`, triggering constrained beam search. However, "
        "`{}` is set to `{}`, which is incompatible with this generation mode; {}"
    )
    if (config.num_beams or 1) == 1:
        raise GenerationError(message.format("num_beams", config.num_beams, "set it to 2 or more"))
    if config.do_sample:
        raise GenerationError(message.format("do_sample", True, "leave it at False"))
    if (config.num_beam_groups or 1) > 1:
        raise GenerationError(message.format("num_beam_groups", config.num_beam_groups, "leave it at 1"))


def without_effect(config: GenerationConfig) -> dict[str, str]:
    """Return each option that is set but has no effect beside the others, with the reason."""
    reasons = {}
    if not config.do_sample:
        is_contrastive = bool(config.penalty_alpha)
        for name, neutral in SAMPLING_NEUTRAL.items():
            value = getattr(config, name)
            is_used = name == "top_k" and is_contrastive
            if value is not None and value not in neutral and not is_used:
                reasons[name] = "do_sample is not True"
    if (config.num_beams or 1) == 1:
        for name, off in (("early_stopping", False), ("length_penalty", 1.0)):
            if getattr(config, name) not in (None, off):
                reasons[name] = "num_beams is not over 1"
    if config.diversity_penalty and (config.num_beam_groups or 1) == 1:
        reasons["diversity_penalty"] = "num_beam_groups is not over 1"
    if config.use_cache is False:
        for name in ("cache_implementation", "cache_config"):
            if getattr(config, name) is not None:
                reasons[name] = "use_cache is False"
    if config.max_cache_len is not None and config.cache_implementation not in _STATIC_CACHES:
        reasons["max_cache_len"] = "cache_implementation is not a static cache"
    if not config.return_dict_in_generate:
        for name in OUTPUT_FLAGS:
            if getattr(config, name):
                reasons[name] = "return_dict_in_generate is not True"
    return reasons
