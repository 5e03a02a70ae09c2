"""Where guesses come from: the row's own text, a smaller model, a smaller model with another tokenizer."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpt2kit.errors import GenerationError
from gpt2kit.generation.processors.chain import Scores
from gpt2kit.generation.protocol import Engine, Output, Phase, Sequence
from gpt2kit.generation.row_loop import Row
from gpt2kit.generation.sampling import sample
from gpt2kit.generation.strategies.options import Assistance
from gpt2kit.generation.strategies.speculation import Guess, SpeculativeLoop


class PromptLookup:
    """Guesses that the text goes on as it did after an earlier occurrence of its last few tokens.

    The longest ending, of at most max_matching_ngram_size tokens, that occurred before is looked for, and
    what followed its last occurrence is the guess. Where that reaches the end, the text is taken to repeat itself.
    """

    def __init__(self, num_tokens: int, max_matching_ngram_size: int) -> None:
        self.num_tokens = num_tokens
        self.max_matching_ngram_size = max_matching_ngram_size

    def propose(self, loop: SpeculativeLoop, limits: dict[Row, int]) -> dict[Row, Guess]:
        return {
            row: Guess(self._lookup(row.ids, min(self.num_tokens, limit))) for row, limit in limits.items()
        }

    def learn(self, row: Row, num_guessed: int, num_accepted: int) -> None:
        """Nothing is learnt."""

    def forget(self, row: Row) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is held."""

    def _lookup(self, ids: list[int], num_tokens: int) -> list[int]:
        text = np.asarray(ids)
        for size in range(min(self.max_matching_ngram_size, len(ids) - 1), 0, -1):
            windows = np.lib.stride_tricks.sliding_window_view(text[:-1], size)
            found = np.flatnonzero((windows == text[-size:]).all(axis=1))
            if len(found):
                period = ids[int(found[-1]) + size :]
                return [period[i % len(period)] for i in range(num_tokens)]
        return []


class DraftModel:
    """Guesses with a smaller model of the same vocabulary, under the same processors and random numbers."""

    def __init__(self, engine: Engine, how: Assistance) -> None:
        """A schedule other than "constant" makes a row's guesses 2 longer after one that was all right and 1
        shorter after any other. A guess ends with the first token below the confidence threshold.
        """
        self.engine = engine
        self.how = how
        self._lengths: dict[Row, int] = {}
        self._sequences: dict[Row, Sequence] = {}
        self._seen: dict[Row, list[int]] = {}

    def propose(self, loop: SpeculativeLoop, limits: dict[Row, int]) -> dict[Row, Guess]:
        room = {
            row: min(limit, self._lengths.get(row, self.how.num_assistant_tokens), self._room(row.ids))
            for row, limit in limits.items()
        }
        guesses = {row: Guess() for row, limit in room.items() if limit > 0}
        growing = list(guesses)
        while growing:
            ids = {row: row.ids + guesses[row].ids for row in growing}
            outputs = self.run({row: ids[row] for row in growing})
            still_growing = []
            for row, output in zip(growing, outputs, strict=True):
                assert output.logits is not None
                try:
                    token_id, scores = loop.choose(row, ids[row], output.logits)
                except GenerationError:  # the rules leave this model no token; the other one may have some
                    continue
                guess = guesses[row]
                guess.ids.append(token_id)
                guess.scores.append(scores)
                is_full = len(guess.ids) >= room[row] or token_id in loop.options.eos_token_ids
                if not is_full and probability(scores, token_id) >= self.how.assistant_confidence_threshold:
                    still_growing.append(row)
            growing = still_growing
        return guesses

    def learn(self, row: Row, num_guessed: int, num_accepted: int) -> None:
        if self.how.num_assistant_tokens_schedule != "constant":
            length = self._lengths.get(row, self.how.num_assistant_tokens)
            self._lengths[row] = length + 2 if num_accepted == num_guessed else max(1, length - 1)

    def forget(self, row: Row) -> None:
        self._lengths.pop(row, None)
        self._seen.pop(row, None)
        sequence = self._sequences.pop(row, None)
        if sequence is not None:
            sequence.free()

    def close(self) -> None:
        for row in list(self._sequences):
            self.forget(row)

    def run(self, ids: dict[Row, list[int]]) -> list[Output]:
        """Return what follows each row's ids here: prompts where it is new, else what has been generated."""
        work = [self.unseen(row, known) for row, known in ids.items()]
        phases: list[Phase] = ["decode" if sequence.length > 0 else "prefill" for sequence, _ in work]
        return self.engine.forward(work, logits="last", phase=phases)

    def unseen(self, row: Row, ids: list[int]) -> tuple[Sequence, list[int]]:
        """Return the row's sequence here, cut to what it shares with ids, and the ids it lacks, at least one."""
        if row not in self._sequences:
            self._sequences[row], self._seen[row] = self.engine.new_sequence(), []
        seen = self._seen[row]
        common = 0
        for old, new in zip(seen, ids[:-1], strict=False):
            if old != new:
                break
            common += 1
        self._sequences[row].truncate(common)
        self._seen[row] = list(ids)
        return self._sequences[row], ids[common:]

    def _room(self, ids: list[int]) -> int:
        return self.engine.config.n_positions - len(ids) + 1


class TranslatingDraftModel:
    """Guesses with a smaller model that has another tokenizer, by way of the text.

    The row's text is encoded for the smaller model, which goes on greedily; its words are encoded back.
    target_lookbehind of the row's last tokens are encoded together with them, so that a guess begins where the
    row's tokenizer would begin a token.
    """

    def __init__(
        self,
        draft: DraftModel,
        tokenizer: Any,  # of the model; any with encode(text) and decode(ids)
        assistant_tokenizer: Any,
    ) -> None:
        self._draft = draft
        self._tokenizer = tokenizer
        self._assistant_tokenizer = assistant_tokenizer

    def propose(self, loop: SpeculativeLoop, limits: dict[Row, int]) -> dict[Row, Guess]:
        engine = self._draft.engine
        ids = {}
        for row, limit in limits.items():
            known = self._assistant_tokenizer.encode(self._tokenizer.decode(row.ids))
            if limit > 0 and 0 < len(known) < engine.config.n_positions:
                ids[row] = known
        lengths = {row: len(known) for row, known in ids.items()}
        growing = list(ids)
        for _ in range(self._draft.how.num_assistant_tokens):
            if not growing:
                break
            outputs = self._draft.run({row: ids[row] for row in growing})
            for row, output in zip(growing, outputs, strict=True):
                assert output.logits is not None
                ids[row] = [*ids[row], sample(output.logits, None)]
            growing = [row for row in growing if len(ids[row]) < engine.config.n_positions]
        return {
            row: Guess(self._translate(row.ids, known[lengths[row] :])[: limits[row]])
            for row, known in ids.items()
        }

    def learn(self, row: Row, num_guessed: int, num_accepted: int) -> None:
        """Nothing is learnt: lengths in two vocabularies do not compare."""

    def forget(self, row: Row) -> None:
        self._draft.forget(row)

    def close(self) -> None:
        self._draft.close()

    def _translate(self, ids: list[int], guess: list[int]) -> list[int]:
        """Encode the text of a guess as the continuation of ids."""
        tail = ids[-self._draft.how.target_lookbehind :]
        text = self._assistant_tokenizer.decode(guess)
        together: list[int] = self._tokenizer.encode(self._tokenizer.decode(tail) + text)
        if together[: len(tail)] == tail:
            return together[len(tail) :]
        alone: list[int] = self._tokenizer.encode(text)
        return alone


def probability(scores: Scores, token_id: int) -> float:
    """Return the probability of a token under scores (V,)."""
    weights = np.exp(scores.astype(np.float64) - float(scores.max()))
    return float(weights[token_id] / weights.sum())
