"""Which way of choosing tokens the options ask for, and the loop that does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt2kit.config import GenerationConfig, GPT2Config
from gpt2kit.config.generation_fields import DEFAULTS
from gpt2kit.errors import GenerationError
from gpt2kit.generation.protocol import Engine

if TYPE_CHECKING:
    from gpt2kit.generation.options import Options
    from gpt2kit.generation.row_loop import RowLoop


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
        from gpt2kit.generation.dola import candidate_layers

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


def choose_loop(
    engine: Engine,
    options: Options,
    assistant: Engine | None = None,
    tokenizer: Any = None,
    assistant_tokenizer: Any = None,
) -> Callable[..., RowLoop] | None:
    """Return the class of the loop, or what makes one; None for plain decoding.

    Raises GenerationError for an assistant that does not fit.
    """
    strategy = options.strategy
    if assistant is not None:
        if strategy is not None or options.num_beams > 1:
            raise GenerationError("an assistant goes with greedy decoding and sampling only; leave one out")
        return _speculative(_draft_model(engine, assistant, options, tokenizer, assistant_tokenizer))
    if isinstance(strategy, Contrastive):
        from gpt2kit.generation.contrastive import ContrastiveLoop

        return ContrastiveLoop
    if isinstance(strategy, Dola):
        from gpt2kit.generation.dola import DolaLoop

        return DolaLoop
    if isinstance(strategy, Guessing):
        from gpt2kit.generation.drafters import DraftModel, PromptLookup

        if strategy.assistant_early_exit:
            return _speculative(
                DraftModel(engine.first_layers(strategy.assistant_early_exit), options.assistance)
            )
        return _speculative(PromptLookup(strategy.prompt_lookup_num_tokens, strategy.max_matching_ngram_size))
    return None


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


def _draft_model(
    engine: Engine, assistant: Engine, options: Options, tokenizer: Any, assistant_tokenizer: Any
) -> Any:
    from gpt2kit.generation.drafters import DraftModel, TranslatingDraftModel

    draft = DraftModel(assistant, options.assistance)
    if assistant_tokenizer is not None:
        if tokenizer is None:
            raise GenerationError(
                "assistant_tokenizer is given without tokenizer; guesses are translated between both"
            )
        return TranslatingDraftModel(draft, tokenizer, assistant_tokenizer)
    ours, theirs = engine.config.vocab_size, assistant.config.vocab_size
    if ours != theirs:
        raise GenerationError(
            f"the assistant's vocab_size is {theirs} and the model's {ours}; for models with different tokenizers "
            "give tokenizer and assistant_tokenizer"
        )
    return draft


def _speculative(drafter: Any) -> Callable[..., RowLoop]:
    from gpt2kit.generation.speculation import SpeculativeLoop

    return lambda *arguments: SpeculativeLoop(drafter, *arguments)
