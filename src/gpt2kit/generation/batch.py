"""Processors and stopping criteria that look at the whole batch; lock_step.py runs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpt2kit.generation.protocol import Array

if TYPE_CHECKING:
    from gpt2kit.generation.row_loop import Row


class BatchProcessor(ABC):
    """A processor of all rows at once; other loops than this one call it for single rows."""

    @abstractmethod
    def process_rows(self, rows: Sequence[Row], scores: Sequence[Array]) -> list[Array]:
        """Return the scores (V,) of each row that has not ended; at the first step these are all rows."""

    @abstractmethod
    def __call__(self, token_ids: list[int], scores: Array) -> Array:
        """Return the scores (V,) of one row."""


class BatchCriterion(ABC):
    """A stopping criterion that looks at all rows at once; other loops than this one ask it for single rows."""

    @abstractmethod
    def stop_rows(self, rows: Sequence[Row]) -> list[bool]:
        """Say for each row that had not ended whether it ends with the token that was just appended."""

    @abstractmethod
    def __call__(self, token_ids: list[int], scores: Array) -> bool:
        """Say whether one row ends."""
