"""The loop that does what the options ask for, and what guesses ahead in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpt2kit.errors import GenerationError
from gpt2kit.generation.options import Options
from gpt2kit.generation.protocol import Engine, NativeLoop
from gpt2kit.generation.row_loop import RowLoop
from gpt2kit.generation.strategies.contrastive import ContrastiveLoop
from gpt2kit.generation.strategies.dola import DolaLoop
from gpt2kit.generation.strategies.drafters import DraftModel, PromptLookup, TranslatingDraftModel
from gpt2kit.generation.strategies.options import Contrastive, Dola, Guesses, Guessing
from gpt2kit.generation.strategies.speculation import Drafter, SpeculativeLoop


def choose_drafter(
    engine: Engine,
    options: Options,
    assistant: Engine | None = None,
    tokenizer: Any = None,
    assistant_tokenizer: Any = None,
) -> Drafter | None:
    """Return what guesses ahead, or None where nothing does.

    Raises GenerationError for an assistant that does not fit.
    """
    strategy = options.strategy
    if assistant is not None:
        if strategy is not None or options.num_beams > 1:
            raise GenerationError("an assistant goes with greedy decoding and sampling only; leave one out")
        return _draft_model(engine, assistant, options, tokenizer, assistant_tokenizer)
    if not isinstance(strategy, Guessing):
        return None
    if strategy.assistant_early_exit:
        return DraftModel(engine.first_layers(strategy.assistant_early_exit), options.assistance)
    return PromptLookup(strategy.prompt_lookup_num_tokens, strategy.max_matching_ngram_size)


def choose_loop(options: Options, drafter: Drafter | None) -> Callable[..., RowLoop] | None:
    """Return the class of the loop, or what makes one; None for plain decoding."""
    if drafter is not None:
        return lambda *arguments: SpeculativeLoop(drafter, *arguments)
    if isinstance(options.strategy, Contrastive):
        return ContrastiveLoop
    if isinstance(options.strategy, Dola):
        return DolaLoop
    return None


def native_guesses(engine: Engine, options: Options, drafter: Drafter | None) -> Guesses | None:
    """Return what a native loop needs to make a drafter's guesses itself, or None where it cannot."""
    if not isinstance(engine, NativeLoop):
        return None
    how = options.assistance
    is_constant = how.num_assistant_tokens_schedule == "constant"
    if isinstance(drafter, PromptLookup):
        return Guesses(drafter.num_tokens, drafter.max_matching_ngram_size, None, True, 0.0)
    if (
        isinstance(drafter, DraftModel)
        and engine.can_guess_with(drafter.engine)
        and how.assistant_ensemble_weight == 1.0
    ):
        threshold = how.assistant_confidence_threshold
        return Guesses(how.num_assistant_tokens, 1, drafter.engine, is_constant, threshold)
    return None


def _draft_model(
    engine: Engine, assistant: Engine, options: Options, tokenizer: Any, assistant_tokenizer: Any
) -> Drafter:
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
