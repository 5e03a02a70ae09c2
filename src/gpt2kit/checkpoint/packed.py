"""Matrices of packed files, as arrays or as memoryviews of them. docs/formats.md specifies the formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt2kit.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GROUP = 64  # inputs that share a scale
PANEL = 16  # outputs of a line
LINE_INPUTS = 4
LINES = GROUP // LINE_INPUTS
NF4_LINE_INPUTS = 8
NESTED_BLOCK = 256  # scales of NF4 that share a nested one


@dataclass(frozen=True)
class PackedInt8:
    """A matrix in 8 bits in the order of memory; shape is (in, out).

    codes: uint8 (panels, groups, 16 lines, 16 outputs, 4 inputs), each code plus 128; scales: the bits of bfloat16,
    uint16 (panels, groups, 16 outputs). What pads the matrix has the code 0 and the scale 0.
    """

    codes: NDArray[np.uint8] | memoryview
    scales: NDArray[np.uint16] | memoryview
    shape: tuple[int, int]

    def parts(self) -> dict[str, NDArray[Any] | memoryview]:
        """Give both arrays by what follows the weight's name in files and in the core."""
        return {"": self.codes, ".scales": self.scales}

    @property
    def nbytes(self) -> int:
        """How many bytes both arrays have."""
        return self.codes.nbytes + self.scales.nbytes


@dataclass(frozen=True)
class PackedNf4:
    """A matrix in bitsandbytes' NF4 in the order of memory; shape is (in, out).

    codes: uint8 (panels, groups, 8 lines, 16 outputs, 4): byte b has inputs b, in the low half, and b + 4 of eight.
    absmax: the scale of each block, (panels, groups, 16 outputs): uint8 codes of dynamic_map(), each times the
    nested_absmax of its 256 blocks, float32 (ceil(out * groups / 256),), plus nested_offset, float32 (1,); blocks are
    counted output by output. Without double quantisation absmax is float32 and the other two are None.
    """

    codes: NDArray[np.uint8] | memoryview
    absmax: NDArray[Any] | memoryview
    nested_absmax: NDArray[np.float32] | memoryview | None
    nested_offset: NDArray[np.float32] | memoryview | None
    shape: tuple[int, int]

    def parts(self) -> dict[str, NDArray[Any] | memoryview]:
        """Give the arrays by what follows the weight's name in files and in the core."""
        parts = {"": self.codes, ".absmax": self.absmax}
        if self.nested_absmax is not None and self.nested_offset is not None:
            parts |= {".nested_absmax": self.nested_absmax, ".nested_offset": self.nested_offset}
        return parts

    @property
    def nbytes(self) -> int:
        """How many bytes the arrays have."""
        return sum(array.nbytes for array in self.parts().values())


def packed_shapes(shape: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the shapes of the packed codes and scales of a matrix (in, out)."""
    panels, groups = -(-shape[1] // PANEL), -(-shape[0] // GROUP)
    return (panels, groups, LINES, PANEL, LINE_INPUTS), (panels, groups, PANEL)


def nf4_shapes(shape: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Give the shapes of the parts of a matrix (in, out) in NF4, with double quantisation. Raises ConfigError."""
    check_nf4_inputs(shape[0])
    panels, groups = -(-shape[1] // PANEL), shape[0] // GROUP
    return {
        "": (panels, groups, GROUP // NF4_LINE_INPUTS, PANEL, NF4_LINE_INPUTS // 2),
        ".absmax": (panels, groups, PANEL),
        ".nested_absmax": (-(-shape[1] * groups // NESTED_BLOCK),),
        ".nested_offset": (1,),
    }


def check_nf4_inputs(inputs: int) -> None:
    """Raise ConfigError where blocks of 64 would run from one output into the next."""
    if inputs % GROUP:
        raise ConfigError(f"the matrix has {inputs} inputs; NF4 needs a multiple of {GROUP}")
