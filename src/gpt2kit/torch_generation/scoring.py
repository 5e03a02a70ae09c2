"""score() of a torch model: gpt2kit.scoring over the engine that the model runs on."""

from collections.abc import Iterable
from typing import Any

from gpt2kit.engine.torch import TorchEngine
from gpt2kit.errors import ScoringError
from gpt2kit.model.gpt2 import GPT2WithLMHead
from gpt2kit.scoring import Score, score
from gpt2kit.torch_generation.engines import choose_engine


def score_texts(
    model: GPT2WithLMHead,
    texts: Iterable[str],
    tokenizer: Any = None,
    *,
    engine: str = "auto",
    **options: Any,
) -> list[Score]:
    """Return the score of each text; see GenerationMixin.score."""
    if model.training:
        raise ScoringError("the model is in training mode, where dropout is random; call model.eval() first")
    if tokenizer is None:
        if not model.config.name_or_path:
            raise ScoringError(
                "the model was not loaded from anywhere; pass its tokenizer: score(texts, tokenizer)"
            )
        from gpt2kit.tokenizer import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model.config.name_or_path)
    return score(choose_engine(model, engine) or TorchEngine(model), tokenizer, texts, **options)
