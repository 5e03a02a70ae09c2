"""One group of beams of one prompt: which beams live on, which are finished, and when the search ends.

At each step every live beam is extended by the candidate tokens. A candidate that ends (end token, stop string,
stopping criterion, length, time) is finished if it ranks among the first `size` candidates; the best `size`
others live on. A finished beam's score is its total / (number of new tokens) ** length_penalty, float32.
With constraints a candidate that stops before it meets them all is none, and the rank is coverage.py's.

These are Transformers' rules, but for one thing: there only ever are beams that exist. Where a vocabulary or the
processors leave fewer sequences than beams, Transformers goes on with copies that score -1e9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from gpt2kit.generation.beams.candidates import Candidate
from gpt2kit.generation.beams.coverage import Coverage, in_rounds
from gpt2kit.generation.options import Options
from gpt2kit.generation.processors.scores import Scores
from gpt2kit.generation.protocol import Output
from gpt2kit.generation.protocol import Sequence as CachedSequence
from gpt2kit.generation.text import RowText

End = Literal["stop", "length", "time"]


@dataclass(eq=False)
class Beam:
    """A sequence of the search, live or finished.

    ids: prompt and new ids. total: sum of the processed log-probabilities of the new ids. beam_indices: for
    each new id the place (0 to num_beams - 1) of the beam that it was appended to.
    """

    ids: list[int]
    total: np.float32
    beam_indices: list[int] = field(default_factory=list)
    text: RowText | None = None  # what stop strings are looked for in
    coverage: Coverage | None = None  # of the constraints, when there are any
    parent: Beam | None = None
    sequence: CachedSequence | None = None  # of a live beam; a finished one's only when it is to be kept
    output: Output | None = None  # of the last forward pass
    end: End | None = None  # why it is finished
    score: float = 0.0  # of a finished beam

    @property
    def is_satisfied(self) -> bool:
        """True unless a constraint is not met."""
        return self.coverage is None or self.coverage.is_complete

    @property
    def rank(self) -> tuple[bool, float]:
        """The key that puts finished beams in order, best first."""
        return not self.is_satisfied, -self.score


# (candidate's beam, scores that its last token was chosen from) -> why it ends there, None when it goes on
EndTest = Callable[[Beam, Scores], "End | None"]


class BeamGroup:
    """The beams of one prompt, or one of the groups that its beams are divided into."""

    def __init__(self, options: Options, root: Beam, max_new_tokens: int, first_place: int) -> None:
        """root: the prompt. first_place: the place of the group's first beam among all of the prompt."""
        self._options = options
        self._size = options.num_beams // options.num_beam_groups
        self._prompt_length = len(root.ids)
        self._max_new_tokens = max_new_tokens
        self.first_place = first_place
        self.live = [root]
        self.finished: list[Beam] = []  # at most `size`, best first

    @property
    def num_candidates(self) -> int:
        """How many candidates leave `size` that do not end with an end token."""
        return max(2, 1 + len(self._options.eos_token_ids)) * self._size

    def step(self, candidates: Iterable[Candidate], processed: list[Scores], end_test: EndTest) -> list[int]:
        """Replace the live beams by their successors; none is left when the search of this group is over.

        candidates: in the order of their rank. processed: one (V,) a live beam.
        Returns the tokens that the group chose: the last ones of its best beams that do not stop, though
        length or time may end them.
        """
        beams = []
        for candidate in candidates:
            beam = self._extend(candidate)
            beam.end = end_test(beam, processed[candidate.beam])
            if beam.end != "stop" or beam.is_satisfied:
                beams.append(beam)
        if self._options.constraints:
            beams = _in_order_of_coverage(beams)
        num_new = len(self.live[0].ids) + 1 - self._prompt_length
        for beam in (ending := [beam for beam in beams[: self._size] if beam.end]):
            beam.score = self._score(beam.total, num_new)
        self.finished = sorted([*self.finished, *ending], key=lambda beam: beam.rank)[: self._size]
        going_on = [beam for beam in beams if not beam.end]
        if self._options.do_sample:  # the rank of a drawn candidate is when it was drawn
            going_on.sort(key=_total, reverse=True)
        self.live = going_on[: self._size]
        if self._is_over(num_new):
            self.live = []
        return [beam.ids[-1] for beam in beams if beam.end != "stop"][: self._size]

    def _extend(self, candidate: Candidate) -> Beam:
        parent = self.live[candidate.beam]
        return Beam(
            ids=[*parent.ids, candidate.token_id],
            total=candidate.total,
            beam_indices=[*parent.beam_indices, self.first_place + candidate.beam],
            coverage=parent.coverage and parent.coverage.after(candidate.token_id),
            parent=parent,
        )

    def _score(self, total: np.float32, length: int) -> float:
        return float(total / np.float32(float(length) ** self._options.length_penalty))

    def _is_over(self, num_new: int) -> bool:
        if not self.live:
            return True
        if len(self.finished) < self._size:
            return False
        if self._options.early_stopping is True:
            return True
        # A finished beam's score divides by its length, so for a positive penalty "never" hopes for the longest.
        is_hopeful = self._options.early_stopping == "never" and self._options.length_penalty > 0.0
        length = self._max_new_tokens if is_hopeful else num_new
        highest = max(self.live, key=_total).total
        return self._score(highest, length) <= self.finished[-1].score


def _in_order_of_coverage(beams: list[Beam]) -> list[Beam]:
    """Put candidates of a constrained search in rounds over the banks; at the last step the met ones first."""
    if all(beam.end for beam in beams):
        return sorted(beams, key=lambda beam: (not beam.is_satisfied, -_total(beam)))
    return in_rounds(beams, lambda beam: beam.coverage.bank if beam.coverage else 0, _total)


def _total(beam: Beam) -> float:
    return float(beam.total)
