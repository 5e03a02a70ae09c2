"""Constraints of a constrained beam search: what must occur among the new tokens, and how much of it has.

A constraint reads the new tokens one by one until it is met. It says which tokens would bring it nearer, and
the search makes sure to look at those. Subclass Constraint for one of your own.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from gpt2kit.errors import GenerationError

_MAX_STEPS = 10_000  # a constraint that is not met after so many tokens of its own choice is broken


class Constraint(ABC):
    """Something that the new tokens must hold; it has state, so every beam has its own copy.

    completed: True once it is met; it is given no more tokens then.
    """

    completed: bool = False

    @abstractmethod
    def advance(self) -> int | list[int] | None:
        """Return the token or tokens that bring the constraint nearer, None when there are none."""

    @abstractmethod
    def does_advance(self, token_id: int) -> bool:
        """Return True when this token brings the constraint nearer."""

    @abstractmethod
    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        """Take the next token and return (stepped, completed, reset).

        stepped: the token is part of what the constraint has. completed: it is met now. reset: what it had
        is lost; if the token begins it anew, it is given once more.
        """

    @abstractmethod
    def reset(self) -> None:
        """Go back to the state before any token."""

    @abstractmethod
    def remaining(self) -> int:
        """Return how many more tokens are needed, 0 when it is met."""

    @abstractmethod
    def copy(self, stateful: bool = False) -> Constraint:
        """Return a copy: with stateful in this state, otherwise in the state before any token."""

    def test(self, vocab_size: int | None = None) -> None:
        """Raise GenerationError unless following advance() meets the constraint, with ids below vocab_size."""
        trial = self.copy()
        for _ in range(_MAX_STEPS):
            tokens = tokens_of(trial)
            if not tokens:
                raise GenerationError(
                    f"{type(self).__name__} is not met and advance() names no token; it must name one"
                )
            if vocab_size is not None and max(tokens) >= vocab_size:
                raise GenerationError(
                    f"a constraint needs token id {max(tokens)}; the vocabulary has ids 0 to {vocab_size - 1}"
                )
            if not trial.does_advance(tokens[0]):
                raise GenerationError(
                    f"{type(self).__name__} is inconsistent: does_advance({tokens[0]}) must be True for what "
                    "advance() names"
                )
            stepped, completed, _ = trial.update(tokens[0])
            if not stepped and not completed:
                raise GenerationError(
                    f"{type(self).__name__} is inconsistent: update({tokens[0]}) must step with what advance() names"
                )
            if completed:
                if trial.remaining() != 0:
                    raise GenerationError(
                        f"{type(self).__name__} is met but remaining() is {trial.remaining()}; it must be 0"
                    )
                return
        raise GenerationError(f"{type(self).__name__} is not met after {_MAX_STEPS} tokens of advance()")


class _PhraseConstraint(Constraint):
    """What one phrase and one of several have in common."""

    _matcher: _Matcher

    def does_advance(self, token_id: int) -> bool:
        """Return True for a token that goes on with a phrase."""
        _check_token(token_id)
        return token_id in self._matcher.advancing()

    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        """Take the next token and return (stepped, completed, reset)."""
        _check_token(token_id)
        stepped, self.completed, reset = self._matcher.push(token_id)
        return stepped, self.completed, reset

    def reset(self) -> None:
        """Forget all tokens."""
        self._matcher = self._matcher.copy(stateful=False)
        self.completed = False

    def remaining(self) -> int:
        """Return the length of the longest phrase less what has occurred, 0 when one is complete."""
        return self._matcher.remaining()

    def copy(self, stateful: bool = False) -> _PhraseConstraint:
        """Return a copy, with stateful in this state."""
        twin = copy.copy(self)
        twin._matcher = self._matcher.copy(stateful)
        twin.completed = stateful and self.completed
        return twin


class PhrasalConstraint(_PhraseConstraint):
    """These tokens must occur, in this order and next to each other."""

    def __init__(self, token_ids: list[int]) -> None:
        """token_ids: not empty. Raises GenerationError otherwise."""
        _check_ids("token_ids", token_ids)
        self.token_ids = token_ids
        self.seqlen = len(token_ids)
        self._matcher = _Matcher([tuple(token_ids)])

    def advance(self) -> int | None:
        """Return the next token of the phrase."""
        tokens = self._matcher.advancing()
        return tokens[0] if tokens else None


class DisjunctiveConstraint(_PhraseConstraint):
    """One of these phrases must occur."""

    def __init__(self, nested_token_ids: list[list[int]]) -> None:
        """nested_token_ids: phrases, none empty, none the beginning of another."""
        if not isinstance(nested_token_ids, (list, tuple)) or not nested_token_ids:
            raise GenerationError(
                f"`nested_token_ids` has to be a non-empty list, but is {nested_token_ids!r}"
            )
        for token_ids in nested_token_ids:
            _check_ids("nested_token_ids", token_ids)
        phrases = [tuple(token_ids) for token_ids in nested_token_ids]
        for index, phrase in enumerate(phrases):
            others = phrases[:index] + phrases[index + 1 :]
            if any(other[: len(phrase)] == phrase for other in others):
                raise GenerationError(
                    "Each list in `nested_token_ids` can't be a complete subset of another list, but "
                    f"{list(phrase)} begins another of {nested_token_ids}; leave out the longer one"
                )
        self.token_ids = nested_token_ids
        self.seqlen = max(len(phrase) for phrase in phrases)
        self._matcher = _Matcher(phrases)

    @property
    def current_seq(self) -> list[int]:
        """What has occurred of a phrase so far."""
        return list(self._matcher.matched)

    def advance(self) -> list[int] | None:
        """Return the tokens that go on with a phrase."""
        return self._matcher.advancing() or None


class _Matcher:
    """Finds the first occurrence of one of several phrases in a stream of tokens, as Aho and Corasick do.

    matched: the longest end of the stream that begins a phrase.
    """

    def __init__(self, phrases: Sequence[tuple[int, ...]]) -> None:
        self._phrases = frozenset(phrases)
        self._beginnings = frozenset(phrase[:end] for phrase in phrases for end in range(1, len(phrase) + 1))
        self._longest = max(len(phrase) for phrase in phrases)
        self.matched: tuple[int, ...] = ()

    @property
    def is_met(self) -> bool:
        return self.matched in self._phrases

    def push(self, token_id: int) -> tuple[bool, bool, bool]:
        self.matched = self._after(token_id)
        return bool(self.matched), self.is_met, not self.matched

    def advancing(self) -> list[int]:
        """Return, ascending, the tokens that leave fewer to come."""
        if self.is_met:
            return []
        ends = [self.matched[start:] for start in range(len(self.matched) + 1)]
        nexts = {item[-1] for item in self._beginnings if item[:-1] in ends}
        return sorted(token for token in nexts if self._remaining_of(self._after(token)) < self.remaining())

    def remaining(self) -> int:
        return self._remaining_of(self.matched)

    def copy(self, stateful: bool) -> _Matcher:
        twin = copy.copy(self)
        if not stateful:
            twin.matched = ()
        return twin

    def _remaining_of(self, matched: tuple[int, ...]) -> int:
        return 0 if matched in self._phrases else self._longest - len(matched)

    def _after(self, token_id: int) -> tuple[int, ...]:
        """Return what is matched with one more token; a complete phrase goes before a longer beginning."""
        ends = [(*self.matched, token_id)[start:] for start in range(len(self.matched) + 1)]
        for kind in (self._phrases, self._beginnings):
            for end in ends:
                if end in kind:
                    return end
        return ()


def tokens_of(constraint: Constraint) -> list[int]:
    """Return the tokens that advance() names, as a list."""
    tokens = constraint.advance()
    if tokens is None:
        return []
    return list(tokens) if isinstance(tokens, (list, tuple)) else [tokens]


def constraints_of(
    constraints: Sequence[Any] | None, force_words_ids: Sequence[Any] | None, vocab_size: int
) -> list[Constraint]:
    """Return the constraints that were asked for, checked and in their first state.

    force_words_ids: each a word (token ids) or a list of words of which one must occur.
    Raises GenerationError for what is no Constraint, does not work as one, or needs ids past the vocabulary.
    """
    asked = list(constraints or ())
    for constraint in asked:
        if not isinstance(constraint, Constraint):
            raise GenerationError(
                "`constraints` has to be a list of gpt2kit.Constraint objects, such as PhrasalConstraint, but "
                f"holds {constraint!r}"
            )
        constraint.test(vocab_size)
    for word in force_words_ids or ():
        is_choice = isinstance(word[0], (list, tuple))
        asked.append(DisjunctiveConstraint(word) if is_choice else PhrasalConstraint(word))
        asked[-1].test(vocab_size)
    return [constraint.copy() for constraint in asked]


def _check_ids(name: str, token_ids: Any) -> None:
    if not isinstance(token_ids, (list, tuple)) or not token_ids:
        raise GenerationError(f"`{name}` has to be a non-empty list, but is {token_ids!r}")
    for token_id in token_ids:
        if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
            raise GenerationError(
                f"Each list in `{name}` has to be a list of positive integers, but is {token_ids!r}"
            )


def _check_token(token_id: Any) -> None:
    if not isinstance(token_id, int):
        raise GenerationError(f"`token_id` has to be an `int`, but is {token_id!r}")
