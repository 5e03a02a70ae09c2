"""Which way of choosing tokens the options ask for, and what it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt2kit.config import GenerationConfig, GPT2Config
from gpt2kit.config.generation_fields import DEFAULTS
from gpt2kit.errors import GenerationError

if TYPE_CHECKING:
    from gpt2kit.generation.protocol import Engine


@dataclass(frozen=True)
class Contrastive:
    """Contrastive search: penalty_alpha over 0, top_k at least 2."""

    top_k: int
    penalty_alpha: float
    low_memory: bool


@dataclass(frozen=True)
class Dola:
    """DoLa: the early layers to contrast with, indices into hidden_states."""

    layers: tuple[int, ...]


@dataclass(frozen=True)
class Guessing:
    """Speculative decoding from the text itself or from the model's own first layers; 0 switches each off."""

    prompt_lookup_num_tokens: int
    max_matching_ngram_size: int
    assistant_early_exit: int


@dataclass(frozen=True)
class Assistance:
    """How a draft model guesses; used when there is one."""

    num_assistant_tokens: int
    num_assistant_tokens_schedule: str
    assistant_confidence_threshold: float
    assistant_ensemble_weight: float  # 1 is off
    target_lookbehind: int


@dataclass(frozen=True)
class Guesses:
    """How a native loop guesses ahead: with an assistant, or from the text itself where there is none."""

    num_tokens: int
    max_matching_ngram_size: int  # for guesses from the text
    assistant: Engine | None
    is_constant_schedule: bool
    assistant_confidence_threshold: float
    clock: Callable[[], float] | None = None  # in seconds, to see what pays; None is the machine's


Strategy = Contrastive | Dola | Guessing | None


def resolve_strategy(merged: GenerationConfig, model: GPT2Config) -> Strategy:
    """Return what the options ask for, None for plain decoding; raises GenerationError for two at once."""
    asked = {
        "penalty_alpha": bool(merged.penalty_alpha),
        "dola_layers": merged.dola_layers is not None,
        "prompt_lookup_num_tokens": merged.prompt_lookup_num_tokens is not None,
        "assistant_early_exit": merged.assistant_early_exit is not None,
        "num_beams": (merged.num_beams or 1) > 1,
    }
    names = [name for name, is_asked in asked.items() if is_asked]
    if len(names) > 1:
        raise GenerationError(f"{' and '.join(names)} are different ways of decoding; give one of them")
    if merged.long_generation is not None and merged.guidance_scale not in (None, 1.0):
        raise GenerationError("long_generation does not go with guidance_scale; leave one out")
    if merged.long_generation is not None and asked["num_beams"]:
        raise GenerationError("long_generation does not go with num_beams; leave one out")
    if asked["penalty_alpha"]:
        return _contrastive(merged)
    if asked["dola_layers"]:
        assert merged.dola_layers is not None
        return Dola(tuple(candidate_layers(model, merged.dola_layers)))
    if asked["prompt_lookup_num_tokens"] or asked["assistant_early_exit"]:
        exit_layer = merged.assistant_early_exit or 0
        if exit_layer >= model.n_layer:
            raise GenerationError(
                f"assistant_early_exit is {exit_layer}; it must be below the model's n_layer, {model.n_layer}"
            )
        return Guessing(merged.prompt_lookup_num_tokens or 0, merged.max_matching_ngram_size or 2, exit_layer)
    return None


def resolve_assistance(merged: GenerationConfig) -> Assistance:
    """Return how a draft model guesses."""

    def value(name: str) -> Any:
        given = getattr(merged, name)
        return DEFAULTS[name] if given is None else given

    return Assistance(
        num_assistant_tokens=value("num_assistant_tokens"),
        num_assistant_tokens_schedule=value("num_assistant_tokens_schedule"),
        assistant_confidence_threshold=value("assistant_confidence_threshold"),
        assistant_ensemble_weight=merged.assistant_ensemble_weight or 1.0,
        target_lookbehind=value("target_lookbehind"),
    )


def _contrastive(merged: GenerationConfig) -> Contrastive:
    top_k = DEFAULTS["top_k"] if merged.top_k is None else merged.top_k
    if merged.do_sample:
        raise GenerationError(
            "penalty_alpha asks for contrastive search, which is not sampled; set do_sample=False"
        )
    if top_k < 2:
        raise GenerationError(f"top_k is {top_k}; contrastive search compares at least 2 tokens")
    if merged.long_generation is not None:
        raise GenerationError("long_generation does not go with contrastive search; leave one out")
    assert merged.penalty_alpha is not None
    return Contrastive(top_k, merged.penalty_alpha, bool(merged.low_memory))


def candidate_layers(config: GPT2Config, dola_layers: str | list[int]) -> list[int]:
    """Return the early layers to contrast with: indices into hidden_states, 0 for the embeddings.

    "low" is every other layer of the first half, "high" of the second; of models with more than 40 layers, of
    the first or last 20. With a tied head the embeddings predict their own token, so the first two are left
    out of "low" as far as the depth allows.
    """
    depth = config.n_layer
    if not isinstance(dola_layers, str):
        if not dola_layers or max(dola_layers) >= depth:
            raise GenerationError(
                f"dola_layers is {dola_layers}; the layers before the last are 0 to {depth - 1}"
            )
        return dola_layers
    if dola_layers == "high":
        return list(range(depth // 2 if depth <= 40 else depth - 20, depth, 2))
    start = min(2, max(depth - 1, 0)) if config.tie_word_embeddings else 0
    return list(range(start, max(depth // 2 if depth <= 40 else 20, start + 1), 2))
