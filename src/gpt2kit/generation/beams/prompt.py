"""The beam search of one prompt: its groups step by step, their cached sequences, and what is settled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gpt2kit.errors import GenerationError
from gpt2kit.generation.beams.candidates import Candidate, best, draw
from gpt2kit.generation.beams.coverage import Coverage
from gpt2kit.generation.beams.group import Beam, BeamGroup, End
from gpt2kit.generation.options import Options
from gpt2kit.generation.processors.chain import LogitsProcessor, process
from gpt2kit.generation.processors.penalties import normalize
from gpt2kit.generation.processors.scores import Scores
from gpt2kit.generation.protocol import Array, Output
from gpt2kit.generation.protocol import Sequence as CachedSequence
from gpt2kit.generation.random import coin
from gpt2kit.generation.rows import Steps, Wanted
from gpt2kit.generation.sampling import no_choice_message
from gpt2kit.generation.text import RowText

# (ids of the whole sequence, the last one included, scores that it was chosen from) -> True to end the row
Criteria = Sequence[Callable[[list[int], Scores], bool]]


class PromptSearch:
    """Searches the continuations of one prompt; owns the sequences of its beams."""

    def __init__(
        self,
        prompt_index: int,
        prompt: list[int],
        sequence: CachedSequence,
        options: Options,
        seed: int,
        chain: Sequence[LogitsProcessor],
        criteria: Criteria,
        text: RowText | None,
        wanted: Wanted,
    ) -> None:
        """text: decodes the new ids of a row, when there are stop strings."""
        self.prompt_index = prompt_index
        self.steps = Steps()
        self._prompt_length = len(prompt)
        self._options = options
        self._seed = seed
        self._chain = chain
        self._criteria = criteria
        self._wanted = wanted
        coverage = Coverage(options.constraints) if options.constraints else None
        root = Beam(list(prompt), np.float32(0.0), sequence=sequence, text=text, coverage=coverage)
        max_new_tokens = options.max_new_tokens[prompt_index]
        size = options.num_beams // options.num_beam_groups
        self._groups = [
            BeamGroup(options, root, max_new_tokens, first_place)
            for first_place in range(0, options.num_beams, size)
        ]
        self._max_length = self._prompt_length + max_new_tokens
        self._is_late = False
        self._kept: list[Beam] = []  # finished ones with a sequence of their own
        self.live = [root]  # each once, in order of their places

    @property
    def is_done(self) -> bool:
        """True when no beam is left to extend."""
        return not self.live

    def new_ids(self, beam: Beam) -> list[int]:
        """Return what was generated of a beam's ids."""
        return beam.ids[self._prompt_length :]

    def step(self, *, is_late: bool) -> None:
        """Extend all live beams, whose `output` is set, by one token. is_late: max_time has passed."""
        self._is_late = is_late
        parents = self.live
        places: dict[int, tuple[Beam, Scores]] = {}
        chosen: list[int] = []  # by the groups before
        for group in self._groups:
            if not group.live:
                continue
            processed = [self._process(beam, chosen) for beam in group.live]
            for offset, (beam, scores) in enumerate(zip(group.live, processed, strict=True)):
                places[group.first_place + offset] = beam, scores
            totals = np.stack([s + b.total for s, b in zip(processed, group.live, strict=True)])
            chosen += group.step(self._candidates(group, totals), processed, self._end_of)
        self._keep_step(places)
        if self._wanted.sequence:
            self._keep_sequences()
        live = [beam for group in self._groups for beam in group.live]
        hand_over_sequences(parents, live)
        for beam in [*live, *self._finished()]:
            beam.parent = None
        self.live = live
        if self.is_done and not self._finished():
            raise GenerationError(no_choice_message(-np.inf))

    def settled(self) -> list[int]:
        """Return the new ids that every row that can still be returned begins with."""
        rows = [*self.live, *self.results()]
        shortest = min((len(beam.ids) for beam in rows), default=0)
        first = rows[0].ids
        length = self._prompt_length
        while length < shortest and all(beam.ids[length] == first[length] for beam in rows):
            length += 1
        return first[self._prompt_length : length]

    def results(self) -> list[Beam]:
        """Return the finished beams, best first, at most num_return_sequences."""
        return sorted(self._finished(), key=lambda beam: beam.rank)[: self._options.num_return_sequences]

    def stop(self) -> None:
        """End the search and free the sequences of its live beams."""
        _free(self.live)
        self.live = []

    def free(self) -> None:
        """End the search and free all its sequences."""
        self.stop()
        _free(self._kept)

    def _finished(self) -> list[Beam]:
        return [beam for group in self._groups for beam in group.finished]

    def _process(self, beam: Beam, chosen: list[int]) -> Scores:
        """Return a live beam's processed log-probabilities.

        Each token loses diversity_penalty for every time it was chosen by the groups before (Vijayakumar et
        al., "Diverse Beam Search", 2016, with the Hamming distance).
        """
        assert beam.output is not None and beam.output.logits is not None
        scores = normalize(beam.output.logits)
        if chosen:
            token_ids, counts = np.unique(chosen, return_counts=True)
            scores[token_ids] -= np.float32(self._options.diversity_penalty) * counts.astype(np.float32)
        scores = process(self._chain, beam.ids, scores)
        highest = float(scores.max())
        if not highest < np.inf:
            raise GenerationError(no_choice_message(highest))
        return scores

    def _candidates(self, group: BeamGroup, totals: Scores) -> list[Candidate]:
        options = self._options
        if options.do_sample:
            position = len(group.live[0].ids)
            return draw(totals, [coin(self._seed, n, position) for n in range(group.num_candidates)])
        if options.constraints:
            return _covering(group, totals)
        return best(totals, group.num_candidates)

    def _end_of(self, beam: Beam, scores: Scores) -> End | None:
        assert beam.parent is not None
        is_stopped = beam.ids[-1] in self._options.eos_token_ids
        if beam.parent.text is not None:
            beam.text = beam.parent.text.fork()
            beam.text.push(beam.ids[-1])
            is_stopped |= beam.text.stop_string is not None
        # Every criterion is asked, so that one with a memory sees every candidate.
        is_stopped |= any([bool(criterion(beam.ids, scores)) for criterion in self._criteria])
        if is_stopped:
            return "stop"
        if len(beam.ids) >= self._max_length:
            return "length"
        return "time" if self._is_late else None

    def _keep_step(self, places: dict[int, tuple[Beam, Scores]]) -> None:
        """Keep what is wanted of this step, stacked over all places; one without a beam repeats another's."""
        if not self._wanted:
            return
        filled = [next(iter(places.values()))] * self._options.num_beams
        for place, item in places.items():
            filled[place] = item
        outputs = [beam.output or Output() for beam, _ in filled]
        stacked = Output(
            logits=_stack([output.logits for output in outputs]),
            hidden_states=_stack([output.hidden_states for output in outputs]),
            attentions=_stack([output.attentions for output in outputs]),
        )
        self.steps.add(self._wanted, stacked, np.stack([scores for _, scores in filled]))

    def _keep_sequences(self) -> None:
        """Keep a copy of the cache that each beam that may be returned was made from."""
        results = self.results()
        _free([beam for beam in self._kept if beam not in results])
        self._kept = [beam for beam in self._kept if beam in results]
        for beam in results:
            if beam.sequence is None:
                assert beam.parent is not None and beam.parent.sequence is not None
                beam.sequence = beam.parent.sequence.fork()
                self._kept.append(beam)


def _covering(group: BeamGroup, totals: Scores) -> list[Candidate]:
    """Return the best tokens of every beam and all that bring it nearer to its constraints, each once.

    Of each bank they hold the best beams that there are, as many as the group has and more.
    """
    candidates = []
    for place, beam in enumerate(group.live):
        assert beam.coverage is not None
        row = totals[place]
        advancing = [token for token in beam.coverage.advancing_tokens() if row[token] > -np.inf]
        likeliest = best(row[None], group.num_candidates + len(advancing))
        for token_id in dict.fromkeys([candidate.token_id for candidate in likeliest] + advancing):
            candidates.append(Candidate(place, token_id, row[token_id]))
    return candidates


def hand_over_sequences(parents: list[Beam], children: list[Beam]) -> None:
    """Give every child its parent's sequence, the first child the very one and the others copies.

    The sequences of parents without children are freed first. If a copy fails, nothing has been handed over
    and the parents still own what they had.
    """
    first_child: dict[int, Beam] = {}
    for child in children:
        first_child.setdefault(id(child.parent), child)
    for parent in parents:
        if id(parent) not in first_child and parent.sequence is not None:
            parent.sequence.free()
            parent.sequence = None
    copies: list[CachedSequence] = []
    others = [child for child in children if first_child[id(child.parent)] is not child]
    try:
        for child in others:
            assert child.parent is not None and child.parent.sequence is not None
            copies.append(child.parent.sequence.fork())
    except BaseException:
        for copy in copies:
            copy.free()
        raise
    for child, copy in zip(others, copies, strict=True):
        child.sequence = copy
    for child in first_child.values():
        assert child.parent is not None
        child.sequence, child.parent.sequence = child.parent.sequence, None


def _free(beams: list[Beam]) -> None:
    for beam in beams:
        if beam.sequence is not None:
            beam.sequence.free()
            beam.sequence = None


def _stack(arrays: list[Array | None]) -> Array | None:
    there = [array for array in arrays if array is not None]
    return np.stack(there) if there else None
