"""RowLoop: greedy decoding and sampling in Python, a step for all rows at a time.

The plain loop, and what other ways of choosing tokens build on: rows join the batch while there is room, grow
by the tokens that are chosen for them, and leave it when they end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from gpt2kit.generation.options import Options
from gpt2kit.generation.processors.chain import LogitsProcessor, Scores, build_processors, process
from gpt2kit.generation.processors.custom import Custom
from gpt2kit.generation.protocol import Engine, Output, Phase
from gpt2kit.generation.protocol import Sequence as CachedSequence
from gpt2kit.generation.random import coin
from gpt2kit.generation.rows import OnToken, Steps, Wanted
from gpt2kit.generation.sampling import sample
from gpt2kit.generation.window import window_start

# (ids of the whole sequence with the token just chosen, scores it was chosen from) -> True to end the row
StoppingCriterion = Callable[[list[int], Scores], bool]


class Row:
    """A row that is growing."""

    def __init__(self, prompt_index: int, row: int, sequence: CachedSequence, prompt: list[int]) -> None:
        self.prompt_index = prompt_index
        self.row = row
        self.sequence = sequence
        self.ids = list(prompt)  # prompt and new ids
        self.num_prompt_tokens = len(prompt)
        self.start = 0  # index of the first id that the sequence holds
        self.chain: list[LogitsProcessor] = []
        self.steps = Steps()
        self.num_guessed = self.num_right = 0  # by speculation

    @property
    def new_ids(self) -> list[int]:
        return self.ids[self.num_prompt_tokens :]


class RowLoop:
    """Runs all prompts. Each step is one forward pass: a token a row, and the whole prompt of rows that join."""

    def __init__(
        self,
        engine: Engine,
        prompts: list[list[int]],
        options: Options,
        seeds: list[int],
        custom: Custom,
        stopping_criteria: Sequence[StoppingCriterion],
        on_token: OnToken | None,
        wanted: Wanted,
        starts: Sequence[CachedSequence] | None,
    ) -> None:
        self.engine = engine
        self.options = options
        self._prompts = prompts
        self._seeds = seeds
        self._custom = custom
        self.stopping_criteria = stopping_criteria
        self._on_token = on_token
        self._wanted = wanted
        self._starts = starts
        self._done: dict[tuple[int, int], Row] = {}

    @property
    def num_rows(self) -> int:
        """How many rows there are in all."""
        return len(self._prompts) * self.options.num_return_sequences

    def run(self, max_rows: int) -> list[Row]:
        """Return all rows, prompt by prompt; their sequences are freed unless they are wanted."""
        waiting = deque(range(len(self._prompts)))
        active: list[Row] = []
        try:
            while waiting or active:
                room = max_rows - len(active)
                joining = [
                    waiting.popleft() for _ in range(min(len(waiting), self._num_joining(room, bool(active))))
                ]
                self._step(active, joining)
        finally:
            for row in active:
                row.sequence.free()
        return [self._done[key] for key in sorted(self._done)]

    def forward(self, work: list[tuple[CachedSequence, list[int]]], phases: list[Phase]) -> list[Output]:
        """Run the engine; a subclass may ask it for more than the last logits."""
        return self.engine.forward(work, logits="last", phase=phases, **self._wanted.of_forward)

    def logits(self, output: Output) -> Scores:
        """Return the scores (V,) that a forward pass gave for the next token of a row."""
        assert output.logits is not None
        return output.logits

    def pending(self, row: Row) -> list[int]:
        """Return the ids that the row's sequence has not seen yet, at least one; moves the window if it must."""
        start = window_start(len(row.ids), self.engine.config.n_positions)
        if start > row.start:
            row.sequence.truncate(0)
            row.start = start
        return row.ids[row.start + row.sequence.length :]

    def phase(self, row: Row) -> Phase:
        """Return what the pending ids of a row are: a window that is filled anew counts as given."""
        return "decode" if row.new_ids and row.sequence.length > 0 else "prefill"

    def choose(
        self, row: Row, ids: list[int], logits: Scores, adjust: Callable[[Scores], Scores] | None = None
    ) -> tuple[int, Scores]:
        """Return the token that follows ids in a row, and the processed scores that it was chosen from.

        adjust: changes the processed scores before the choice.
        """
        scores = process(row.chain, ids, logits)
        if adjust is not None:
            scores = adjust(scores)
        return self.pick(row, len(ids), scores), scores

    def pick(self, row: Row, position: int, scores: Scores) -> int:
        """Return the token at a position of a row that processed scores and the row's random numbers give."""
        sampled = self.options.do_sample
        chance = coin(self._seeds[row.prompt_index], row.row, position) if sampled else None
        return sample(scores, chance)

    def choose_all(self, rows: Sequence[Row], outputs: Sequence[Output]) -> list[tuple[int, Scores]]:
        """Return the next token of each row and the processed scores that it was chosen from."""
        return [
            self.choose(row, row.ids, self.logits(output)) for row, output in zip(rows, outputs, strict=True)
        ]

    def append(self, row: Row, token_id: int, scores: Scores) -> bool:
        """Append a chosen token to the row and return True when the row ends with it."""
        options = self.options
        row.ids.append(token_id)
        num_new = len(row.ids) - row.num_prompt_tokens
        is_done = token_id in options.eos_token_ids or num_new >= options.max_new_tokens[row.prompt_index]
        if self._on_token is not None and self._on_token(row.prompt_index, row.row, token_id):
            is_done = True
        # Every criterion is asked, so that one with a memory sees every token.
        return any([bool(criterion(row.ids, scores)) for criterion in self.stopping_criteria]) or is_done

    def append_all(self, rows: Sequence[Row], chosen: Sequence[tuple[int, Scores]]) -> list[bool]:
        """Append each row's token and say which rows end with it."""
        return [self.append(row, *choice) for row, choice in zip(rows, chosen, strict=True)]

    def join(self, prompt_index: int) -> Row:
        """Start the first row of a prompt."""
        prompt = self._prompts[prompt_index]
        sequence = self.engine.new_sequence() if self._starts is None else self._starts[prompt_index]
        row = Row(prompt_index, 0, sequence, prompt)
        row.chain = build_processors(self.options, prompt_index, prompt, self._custom)
        return row

    def fork(self, row: Row, index: int) -> Row:
        """Start another row of the prompt whose first row has just been run."""
        twin = Row(row.prompt_index, index, row.sequence.fork(), self._prompts[row.prompt_index])
        twin.chain = row.chain
        twin.start = row.start
        return twin

    def finish(self, row: Row) -> None:
        """Keep a row that has ended, and give its cache back unless that is wanted."""
        self._done[row.prompt_index, row.row] = row
        if not self._wanted.sequence:
            row.sequence.free()

    def _num_joining(self, room: int, has_active: bool) -> int:
        num_prompts = room // self.options.num_return_sequences
        return num_prompts if has_active else max(1, num_prompts)

    def _step(self, active: list[Row], joining: list[int]) -> None:
        num_active = len(active)
        active.extend(self.join(prompt_index) for prompt_index in joining)
        work = [(row.sequence, self.pending(row)) for row in active]
        outputs = self.forward(work, [self.phase(row) for row in active])
        for start, output in list(zip(active, outputs, strict=True))[num_active:]:
            for index in range(1, self.options.num_return_sequences):
                active.append(self.fork(start, index))
                outputs.append(output)
        if self._custom.guidance is not None:
            self._custom.guidance.advance([(row.prompt_index, row.new_ids) for row in active])
        chosen = self.choose_all(active, outputs)
        for row, output, (_, scores) in zip(active, outputs, chosen, strict=True):
            row.steps.add(self._wanted, output, scores)
        is_done = self.append_all(active, chosen)
        for row, done in zip(active, is_done, strict=True):
            if done:
                self.finish(row)
        active[:] = [row for row, done in zip(active, is_done, strict=True) if not done]
