"""Matrices of packed files, as arrays or as memoryviews of them. docs/formats.md specifies the formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GROUP = 64  # inputs that share a scale
PANEL = 16  # outputs of a line
LINE_INPUTS = 4
LINES = GROUP // LINE_INPUTS


@dataclass(frozen=True)
class PackedInt8:
    """A matrix in 8 bits in the order of memory; shape is (in, out).

    codes: uint8 (panels, groups, 16 lines, 16 outputs, 4 inputs), each code plus 128; scales: the bits of bfloat16,
    uint16 (panels, groups, 16 outputs). What pads the matrix has the code 0 and the scale 0.
    """

    codes: NDArray[np.uint8] | memoryview
    scales: NDArray[np.uint16] | memoryview
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """How many bytes both arrays have."""
        return self.codes.nbytes + self.scales.nbytes


def packed_shapes(shape: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the shapes of the packed codes and scales of a matrix (in, out)."""
    panels, groups = -(-shape[1] // PANEL), -(-shape[0] // GROUP)
    return (panels, groups, LINES, PANEL, LINE_INPUTS), (panels, groups, PANEL)
