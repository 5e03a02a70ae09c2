"""How far one beam has come with the constraints, and the order of candidates that this makes.

Beams that have come equally far form a bank. Candidates are taken from the banks in rounds, the best of each,
the farthest bank first, so that beams which hold much of a forced phrase do not lose against likelier ones which
hold none (Post and Vilar, "Fast Lexically Constrained Decoding with Dynamic Beam Allocation", 2018).
Every constraint reads all new tokens by itself, so occurrences may overlap, and stays met once it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import TypeVar

from gpt2kit.generation.beams.constraints import Constraint, tokens_of

T = TypeVar("T")


class Coverage:
    """The states of all constraints after the tokens of one beam."""

    def __init__(self, constraints: Sequence[Constraint]) -> None:
        """constraints: in their first states; they are not changed."""
        self._constraints = list(constraints)
        self._total = sum(constraint.remaining() for constraint in constraints)

    @property
    def is_complete(self) -> bool:
        """True when every constraint is met."""
        return all(constraint.completed for constraint in self._constraints)

    @property
    def bank(self) -> int:
        """How many tokens of the constraints there are."""
        return self._total - sum(c.remaining() for c in self._constraints if not c.completed)

    def advancing_tokens(self) -> list[int]:
        """Return, ascending, the tokens that bring a constraint nearer."""
        return sorted({token for c in self._constraints if not c.completed for token in tokens_of(c)})

    def after(self, token_id: int) -> Coverage:
        """Return the coverage with one more token."""
        twin = Coverage(())
        twin._total = self._total
        twin._constraints = [c if c.completed else _updated(c, token_id) for c in self._constraints]
        return twin


def in_rounds(items: Sequence[T], bank_of: Callable[[T], int], total_of: Callable[[T], float]) -> list[T]:
    """Return the items in rounds: the best of each bank, farthest bank first, then the second best, ..."""
    banks: dict[int, list[T]] = {}
    for item in sorted(items, key=lambda item: -total_of(item)):
        banks.setdefault(bank_of(item), []).append(item)
    rounds = zip_longest(*(banks[bank] for bank in sorted(banks, reverse=True)))
    return [item for round_ in rounds for item in round_ if item is not None]


def _updated(constraint: Constraint, token_id: int) -> Constraint:
    twin = constraint.copy(stateful=True)
    _, _, was_reset = twin.update(token_id)
    if was_reset and twin.does_advance(token_id):
        twin.update(token_id)
    return twin
