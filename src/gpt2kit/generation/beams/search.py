"""Beam search over any engine: beams of all prompts in one ragged batch, searched prompt by prompt.

What one prompt's search does with its scores is in prompt.py and group.py. A prompt's result does
not depend on the others in the batch.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence

from gpt2kit.generation.beams.group import Beam
from gpt2kit.generation.beams.prompt import Criteria, PromptSearch
from gpt2kit.generation.options import Options
from gpt2kit.generation.processors.chain import build_processors
from gpt2kit.generation.processors.custom import Custom
from gpt2kit.generation.protocol import Engine, Phase
from gpt2kit.generation.protocol import Sequence as CachedSequence
from gpt2kit.generation.rows import Generated, RowWatch, Wanted
from gpt2kit.generation.text import RowText

NO_SCORE = -1e9  # of a row that is missing because fewer sequences exist than were asked for


def beam_search(
    engine: Engine,
    prompts: list[list[int]],
    options: Options,
    seeds: list[int],
    *,
    custom: Custom,
    stopping_criteria: Criteria,
    watches: list[RowWatch],
    is_streamed: bool,
    new_text: Callable[[], RowText | None],
    deadline: float | None,
    wanted: Wanted,
    starts: Sequence[CachedSequence] | None,
    max_rows: int,
) -> list[Generated]:
    """Return num_return_sequences rows a prompt, best first, with `score` and `beam_indices`.

    prompts: checked ids, none empty. seeds: one a prompt, for do_sample. watches: one a row of the result.
    is_streamed: tell the watches what is settled as the search goes on, which is the beginning that all beams
        share; the rest comes at the end. A row that a watch ends there keeps what it was told.
    new_text: makes what finds stop strings. deadline: of time.monotonic(). max_rows: how many beams run at
        once; at least one prompt does.
    Rows that do not exist, as the processors leave fewer sequences, are empty and have the score -1e9.
    """
    # A beam needs a token to go on with beside all that would end it.
    min_tokens_to_keep = max(2, 1 + len(options.eos_token_ids))
    streams = [
        _Stream(watches[start : start + options.num_return_sequences])
        for start in range(0, len(watches), options.num_return_sequences)
    ]
    waiting = deque(range(len(prompts)))
    searches: list[PromptSearch] = []
    active: list[PromptSearch] = []
    try:
        while waiting or active:
            while waiting and (not active or (len(active) + 1) * options.num_beams <= max_rows):
                index = waiting.popleft()
                search = PromptSearch(
                    index,
                    prompts[index],
                    engine.new_sequence() if starts is None else starts[index],
                    options,
                    seeds[index],
                    build_processors(
                        options, index, prompts[index], custom, min_tokens_to_keep=min_tokens_to_keep
                    ),
                    stopping_criteria,
                    new_text() if options.stop_strings else None,
                    wanted,
                )
                searches.append(search)
                active.append(search)
            _forward(engine, active, wanted)
            if custom.guidance is not None:
                custom.guidance.advance(
                    [(s.prompt_index, s.new_ids(beam)) for s in active for beam in s.live]
                )
            is_late = deadline is not None and time.monotonic() >= deadline
            for search in active:
                search.step(is_late=is_late)
                stream = streams[search.prompt_index]
                if is_streamed and not search.is_done and stream.tell(search.settled()):
                    search.stop()
            active = [search for search in active if not search.is_done]
        rows = [
            row
            for search, stream in zip(searches, streams, strict=True)
            for row in _rows(search, stream, wanted, is_streamed)
        ]
    except BaseException:
        for search in searches:
            search.free()
        if starts is not None:
            for index in waiting:
                starts[index].free()
        raise
    unmet = sorted({s.prompt_index for s in searches for beam in s.results() if not beam.is_satisfied})
    if unmet:
        warnings.warn(
            f"rows of prompt {', '.join(map(str, unmet))} do not meet the constraints: raise num_beams or "
            "max_new_tokens",
            UserWarning,
            stacklevel=4,
        )
    return rows


def _forward(engine: Engine, active: list[PromptSearch], wanted: Wanted) -> None:
    """Run one pass over the live beams of all searches and leave each its output."""
    beams = [beam for search in active for beam in search.live]
    work = []
    phases: list[Phase] = []
    for search in active:
        for beam in search.live:
            assert beam.sequence is not None
            work.append((beam.sequence, beam.ids[beam.sequence.length :]))
            phases.append("decode" if search.new_ids(beam) else "prefill")
    outputs = engine.forward(work, logits="last", phase=phases, **wanted.of_forward)
    for beam, output in zip(beams, outputs, strict=True):
        beam.output = output


class _Stream:
    """Tells the rows of one prompt about their tokens, each once."""

    def __init__(self, watches: list[RowWatch]) -> None:
        self.watches = watches
        self._is_ended = [False] * len(watches)
        self._told: list[list[int]] = [[] for _ in watches]

    def tell(self, settled: list[int]) -> bool:
        """Give all rows what is new of their common beginning; True when every row was ended by its watch."""
        for row in range(len(self.watches)):
            self.tell_row(row, settled)
        return all(self._is_ended)

    def tell_row(self, row: int, ids: list[int]) -> list[int]:
        """Give one row what is new of its ids and return all that it took."""
        told = self._told[row]
        for token_id in ids[len(told) :]:
            if self._is_ended[row]:
                break
            told.append(token_id)
            self._is_ended[row] = self.watches[row].observe(token_id)
        return told


def _rows(search: PromptSearch, stream: _Stream, wanted: Wanted, is_streamed: bool) -> list[Generated]:
    """Make the rows of one prompt, telling what has not been told yet."""
    beams: list[Beam | None] = list(search.results())
    rows = []
    for row, watch in enumerate(stream.watches):
        beam = beams[row] if row < len(beams) else None
        ids = [] if beam is None else search.new_ids(beam)
        told = stream.tell_row(row, ids) if is_streamed else ids
        result = watch.finish(told, was_observed=is_streamed, is_late=beam is not None and beam.end == "time")
        if told == ids:
            result.score = NO_SCORE if beam is None else beam.score
            result.beam_indices = [] if beam is None else beam.beam_indices
        result.steps = search.steps if wanted else None
        result.sequence = None if beam is None else beam.sequence
        rows.append(result)
    return rows
