"""Speculative decoding: guess several tokens cheaply, check them in one forward pass.

Every token is chosen from the model's own processed scores with the random number of its position, exactly as
RowLoop does; a guess only decides how many positions one pass can settle. So the text is the same as without
guesses, greedy or sampled, for the same seed, whatever the guesses are. drafters.py makes the guesses.

With assistant_ensemble_weight w a token is chosen from w * p + (1 - w) * q wherever a draft model gave the
probabilities q: more guesses are taken, and the text is no longer the model's alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from gpt2kit.errors import GenerationError
from gpt2kit.generation.processors.chain import Scores
from gpt2kit.generation.protocol import Output
from gpt2kit.generation.row_loop import Row, RowLoop


@dataclass
class Guess:
    """What may follow a row: token ids, and the scores (V,) that each was chosen from, where there are any."""

    ids: list[int] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)


class Drafter(Protocol):
    """Guesses what follows."""

    def propose(self, loop: SpeculativeLoop, limits: dict[Row, int]) -> dict[Row, Guess]:
        """Return a guess of at most limits[row] tokens, or none, for each row."""

    def learn(self, row: Row, num_guessed: int, num_accepted: int) -> None:
        """Take note of how many tokens of a guess were right."""

    def forget(self, row: Row) -> None:
        """Give back what is held for a row that has ended."""

    def close(self) -> None:
        """Give back everything."""


class SpeculativeLoop(RowLoop):
    """Runs all prompts with guesses; rows may differ in how many tokens a pass settles."""

    def __init__(
        self, drafter: Drafter, *arguments: Any, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        super().__init__(*arguments)
        if self._wanted.hidden_states or self._wanted.attentions:
            raise GenerationError(
                "a pass of assisted generation settles several tokens, and keeps no output_hidden_states or "
                "output_attentions; leave them out"
            )
        self._drafter = drafter
        self._payoff = Payoff(clock)

    def run(self, max_rows: int) -> list[Row]:
        try:
            return super().run(max_rows)
        finally:
            self._drafter.close()

    def _step(self, active: list[Row], joining: list[int]) -> None:
        active.extend(self.join(prompt_index) for prompt_index in joining)
        pending = {row: self.pending(row) for row in active}
        given = [row for row in active if self.phase(row) == "prefill"]
        growing = [row for row in active if self.phase(row) == "decode"]
        is_done = self._fill(active, {row: pending[row] for row in given}) if given else {}
        if growing:
            is_done |= self._grow({row: pending[row] for row in growing})
        for row in active:
            if is_done[row]:
                self._drafter.forget(row)
                self.finish(row)
            else:
                row.sequence.truncate(len(row.ids) - 1 - row.start)
        active[:] = [row for row in active if not is_done[row]]

    def _fill(self, active: list[Row], pending: dict[Row, list[int]]) -> dict[Row, bool]:
        """Run prompts, or windows that have moved, choose the token behind each, and say which rows end.

        Without guesses, which are of another phase. Adds the other rows of new prompts to the active ones.
        """
        outputs = self.engine.forward([(row.sequence, ids) for row, ids in pending.items()], logits="last")
        logits: dict[Row, Scores] = {}
        for row, output in zip(pending, outputs, strict=True):
            assert output.logits is not None
            logits[row] = output.logits
            if not row.new_ids:
                for index in range(1, self.options.num_return_sequences):
                    active.append(self.fork(row, index))
                    logits[active[-1]] = output.logits
        return {row: self._settle(row, Guess(), scores[None]) for row, scores in logits.items()}

    def _grow(self, pending: dict[Row, list[int]]) -> dict[Row, bool]:
        """Guess what follows rows, check it, and say which rows end."""
        num_before = sum(len(row.ids) for row in pending)
        guesses: dict[Row, Guess] = {}
        if self._payoff.start():
            guesses = self._drafter.propose(self, {row: self._limit(row) for row in pending})
        drafts = {row: guesses.get(row, Guess()) for row in pending}
        work = [(row.sequence, ids + drafts[row].ids) for row, ids in pending.items()]
        outputs = self.engine.forward(work, logits="all", phase="decode")
        is_done = {}
        for (row, draft), output in zip(drafts.items(), outputs, strict=True):
            assert output.logits is not None
            is_done[row] = self._settle(row, draft, output.logits)
        self._payoff.end(sum(len(row.ids) for row in pending) - num_before)
        return is_done

    def _limit(self, row: Row) -> int:
        """Return how many guessed tokens a row has use and room for."""
        num_new = len(row.ids) - row.num_prompt_tokens
        wanted = self.options.max_new_tokens[row.prompt_index] - num_new - 1
        return min(wanted, self.engine.config.n_positions - (len(row.ids) - row.start))

    def _settle(self, row: Row, draft: Guess, logits: Scores) -> bool:
        """Append tokens while the guess is right, and the one after it; logits (guesses + 1, V).

        Returns True when the row ends.
        """
        for position, token_logits in enumerate(logits):
            guessed = draft.ids[position] if position < len(draft.ids) else None
            helper = draft.scores[position] if position < len(draft.scores) else None
            token_id, scores = self.choose(row, row.ids, token_logits, self._blend(helper))
            row.steps.add(self._wanted, Output(logits=token_logits), scores)
            is_done = self.append(row, token_id, scores)
            if is_done or token_id != guessed:
                num_right = position + (token_id == guessed)
                row.num_guessed += len(draft.ids)
                row.num_right += num_right
                if draft.ids:
                    self._drafter.learn(row, len(draft.ids), num_right)
                return is_done
        raise AssertionError("the position after a guess has no guess to agree with")

    def _blend(self, helper: Scores | None) -> Callable[[Scores], Scores] | None:
        weight = self.options.assistance.assistant_ensemble_weight
        return None if helper is None or weight == 1.0 else lambda scores: blend(scores, helper, weight)


class Payoff:
    """Decides by the clock whether guessing pays: tries both ways now and then, and keeps to the quicker one."""

    PROBES = (6, 2)  # rounds with and without guesses
    ROUNDS = 48  # before the next probe

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._round = 0
        self._seconds = [0.0, 0.0]  # without, with
        self._tokens = [0, 0]
        self._is_guessing = True
        self._started = 0.0

    def start(self) -> bool:
        """Begin a round and return True when it should guess."""
        guessing, plain = self.PROBES
        if self._round == guessing + plain + self.ROUNDS:
            self._round, self._seconds, self._tokens = 0, [0.0, 0.0], [0, 0]
        if self._round < guessing + plain:
            self._is_guessing = self._round < guessing
        else:
            cost = [s / max(n, 1) for s, n in zip(self._seconds, self._tokens, strict=True)]
            self._is_guessing = cost[1] <= cost[0]
        self._round += 1
        self._started = self._clock()
        return self._is_guessing

    def end(self, num_tokens: int) -> None:
        """End a round that settled so many tokens."""
        self._seconds[self._is_guessing] += self._clock() - self._started
        self._tokens[self._is_guessing] += num_tokens


def blend(scores: Scores, helper: Scores, weight: float) -> Scores:
    """Return log(weight * softmax(scores) + (1 - weight) * softmax(helper)), all (V,)."""
    p, q = (
        exponentials / exponentials.sum()
        for exponentials in (np.exp(s.astype(np.float64) - float(s.max())) for s in (scores, helper))
    )
    with np.errstate(divide="ignore"):
        blended: Scores = np.log(weight * p + (1.0 - weight) * q).astype(np.float32)
    return blended
