"""The loop that does what the options ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpt2kit.errors import GenerationError
from gpt2kit.generation.options import Options
from gpt2kit.generation.protocol import Engine
from gpt2kit.generation.row_loop import RowLoop
from gpt2kit.generation.strategies.contrastive import ContrastiveLoop
from gpt2kit.generation.strategies.dola import DolaLoop
from gpt2kit.generation.strategies.drafters import DraftModel, PromptLookup, TranslatingDraftModel
from gpt2kit.generation.strategies.options import Contrastive, Dola, Guessing
from gpt2kit.generation.strategies.speculation import SpeculativeLoop


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
        return ContrastiveLoop
    if isinstance(strategy, Dola):
        return DolaLoop
    if isinstance(strategy, Guessing):
        if strategy.assistant_early_exit:
            return _speculative(
                DraftModel(engine.first_layers(strategy.assistant_early_exit), options.assistance)
            )
        return _speculative(PromptLookup(strategy.prompt_lookup_num_tokens, strategy.max_matching_ngram_size))
    return None


def _draft_model(
    engine: Engine, assistant: Engine, options: Options, tokenizer: Any, assistant_tokenizer: Any
) -> Any:
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
    return lambda *arguments: SpeculativeLoop(drafter, *arguments)
