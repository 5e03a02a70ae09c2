"""Contrastive search (Su et al. 2022, arXiv:2202.06417): probable tokens that do not repeat what was said.

Of the top_k most probable tokens v the one with the highest

    (1 - penalty_alpha) * p(v) - penalty_alpha * max over j of cos(h(v), h(j))

is taken, where h(v) is the hidden state after the last norm that v would get and h(j) are those of all tokens
before it, the prompt's too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt2kit.errors import GenerationError
from gpt2kit.generation.processors.chain import Scores, process
from gpt2kit.generation.protocol import Output, Phase
from gpt2kit.generation.protocol import Sequence as CachedSequence
from gpt2kit.generation.row_loop import Row, RowLoop
from gpt2kit.generation.strategies.options import Contrastive

States = npt.NDArray[np.float32]


@dataclass
class _Candidate:
    """A token that a row might take, with the sequence that has seen it."""

    token_id: int
    probability: float
    sequence: CachedSequence
    logits: Scores  # (V,), of the token after it
    state: States  # (1, C), of unit length
    value: float = -np.inf


class ContrastiveLoop(RowLoop):
    """Tries the candidates of all rows in one forward pass, or with low_memory one a row at a time."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        assert isinstance(self.options.strategy, Contrastive)
        self._strategy = self.options.strategy
        if self._wanted.hidden_states or self._wanted.attentions:
            raise GenerationError(
                "contrastive search runs many tokens that it does not take, and keeps no output_hidden_states or "
                "output_attentions; leave them out"
            )
        self._next_logits: dict[Row, Scores] = {}
        self._states: dict[Row, States] = {}  # (S, C), of unit length
        self._twins: set[CachedSequence] = set()

    def run(self, max_rows: int) -> list[Row]:
        try:
            return super().run(max_rows)
        finally:
            for twin in self._twins:
                twin.free()

    def forward(self, work: list[tuple[CachedSequence, list[int]]], phases: list[Phase]) -> list[Output]:
        return self.engine.forward(work, logits="last", hidden=True, phase=phases)

    def _step(self, active: list[Row], joining: list[int]) -> None:
        starts = [self.join(prompt_index) for prompt_index in joining]
        active.extend(starts)
        if starts:
            outputs = self.forward([(row.sequence, row.ids) for row in starts], ["prefill"] * len(starts))
            for row, output in zip(starts, outputs, strict=True):
                self._next_logits[row], self._states[row] = self.logits(output), _unit(output)
        scores = {row: process(row.chain, row.ids, self._next_logits[row]) for row in active}
        best = self._best_candidates(scores)
        still_active = []
        for row in active:
            chosen = best[row]
            row.steps.add(self._wanted, Output(logits=self._next_logits[row]), scores[row])
            row.sequence.free()
            row.sequence = chosen.sequence
            self._twins.discard(chosen.sequence)
            self._next_logits[row] = chosen.logits
            self._states[row] = np.concatenate((self._states[row], chosen.state))
            if self.append(row, chosen.token_id, scores[row]):
                del self._next_logits[row], self._states[row]
                self.finish(row)
            else:
                still_active.append(row)
        active[:] = still_active

    def _best_candidates(self, scores: dict[Row, Scores]) -> dict[Row, _Candidate]:
        """Return each row's candidate of the highest value, the more probable one where two are equal."""
        candidates = {
            row: most_probable(row_scores, self._strategy.top_k) for row, row_scores in scores.items()
        }
        ranks = list(range(max(len(tokens) for tokens in candidates.values())))
        best: dict[Row, _Candidate] = {}
        for group in [[rank] for rank in ranks] if self._strategy.low_memory else [ranks]:
            tried = [
                (row, *candidates[row][rank])
                for row in scores
                for rank in group
                if rank < len(candidates[row])
            ]
            for row, candidate in self._tried(tried):
                loser = best.get(row)
                if loser is None or candidate.value > loser.value:
                    best[row] = candidate
                else:
                    loser = candidate
                if loser is not None:
                    self._twins.discard(loser.sequence)
                    loser.sequence.free()
        return best

    def _tried(self, tokens: list[tuple[Row, int, float]]) -> list[tuple[Row, _Candidate]]:
        """Run candidates (row, token id, probability), each on a copy of its row's sequence."""
        twins = []
        for row, _, _ in tokens:
            twins.append(row.sequence.fork())
            self._twins.add(twins[-1])
        outputs = self.forward(
            [(twin, [token_id]) for twin, (_, token_id, _) in zip(twins, tokens, strict=True)],
            ["decode"] * len(twins),
        )
        alpha = self._strategy.penalty_alpha
        result = []
        for (row, token_id, probability), twin, output in zip(tokens, twins, outputs, strict=True):
            candidate = _Candidate(token_id, probability, twin, self.logits(output), _unit(output))
            similarity = float((self._states[row] @ candidate.state[0]).max())
            candidate.value = (1.0 - alpha) * probability - alpha * similarity
            result.append((row, candidate))
        return result


def most_probable(scores: Scores, top_k: int) -> list[tuple[int, float]]:
    """Return the top_k tokens that are not banned with their probabilities, the most probable first."""
    order = np.argsort(-scores, kind="stable")[:top_k]
    weights = np.exp(scores.astype(np.float64) - float(scores.max()))
    total = float(weights.sum())
    return [(int(i), float(weights[i]) / total) for i in order if scores[i] > -np.inf]


def _unit(output: Output) -> States:
    """Hidden states (T, C), each scaled to length 1."""
    assert output.hidden is not None
    lengths = np.linalg.norm(output.hidden, axis=-1, keepdims=True)
    result: States = output.hidden / np.maximum(lengths, np.finfo(np.float32).tiny)
    return result
