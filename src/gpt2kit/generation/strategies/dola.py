"""DoLa: decoding by contrasting layers (Chuang et al. 2023, arXiv:2309.03883).

A token's score is how much its log-probability grows between an early layer, read through the same head, and
the last one. Factual knowledge tends to appear late, fluent function words early.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpt2kit.generation.processors.chain import Scores
from gpt2kit.generation.protocol import Output, Phase
from gpt2kit.generation.protocol import Sequence as CachedSequence
from gpt2kit.generation.row_loop import RowLoop
from gpt2kit.generation.strategies.options import Dola

# Tokens less probable than this times the most probable one are out (alpha of the paper's equation 4).
RELATIVE_TOP = 0.1


def contrast(final: Scores, early: Scores) -> Scores:
    """Return the scores (V,) that DoLa gives for logits of the last layer (V,) and of early ones (L, V).

    The early layer is the one with the largest Jensen-Shannon divergence from the last (the lowest where
    several have it). The score is log p_last - log p_early, -inf where p_last < RELATIVE_TOP * max p_last.
    """
    last = _log_softmax(final.astype(np.float64))
    candidates = _log_softmax(early.astype(np.float64))
    chosen = candidates[np.argmax([_divergence(last, layer) for layer in candidates])]
    scores: Scores = np.where(last < last.max() + np.log(RELATIVE_TOP), -np.inf, last - chosen).astype(
        np.float32
    )
    return scores


class DolaLoop(RowLoop):
    """Greedy decoding or sampling from contrasted scores."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        assert isinstance(self.options.strategy, Dola)
        self._layers = list(self.options.strategy.layers)

    def forward(self, work: list[tuple[CachedSequence, list[int]]], phases: list[Phase]) -> list[Output]:
        options = {**self._wanted.of_forward, "hidden_states": True}
        return self.engine.forward(work, logits="last", phase=phases, **options)

    def logits(self, output: Output) -> Scores:
        assert output.logits is not None and output.hidden_states is not None
        states = np.ascontiguousarray(output.hidden_states[self._layers, -1])
        early = self.engine.head(states, phase="decode")
        return contrast(output.logits, early)


def _log_softmax(logits: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: np.ndarray[Any, np.dtype[np.float64]] = shifted - np.log(
        np.exp(shifted).sum(axis=-1, keepdims=True)
    )
    return result


def _divergence(
    log_p: np.ndarray[Any, np.dtype[np.float64]], log_q: np.ndarray[Any, np.dtype[np.float64]]
) -> float:
    """Jensen-Shannon divergence in nats: the mean of KL(p, m) and KL(q, m) with m halfway between."""
    log_m = np.logaddexp(log_p, log_q) - np.log(2.0)
    return 0.5 * float((np.exp(log_p) * (log_p - log_m) + np.exp(log_q) * (log_q - log_m)).sum())
