"""NF4 in the order of memory of the native engine: bitsandbytes' 4 bits, of which four_bit.py defines the numbers.

A matrix (in, out) has blocks of 64 inputs of one output; in is a multiple of 64, so that no block runs from one
output into the next. Codes lie packed: cut into panels of 16 outputs and groups of 64 inputs, and there into lines
of 16 outputs by 8 inputs. So a product reads them in order, with registers of any width.

pack_nf4 defines the order; packed_nf4 quantises too, in C++, and is what loading uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2kit import _native
from gpt2kit.errors import ConfigError
from gpt2kit.quant.codes import NF4, dynamic_map
from gpt2kit.quant.four_bit import (
    BLOCKSIZE,
    NESTED_BLOCKSIZE,
    NestedScales,
    Quantized4bit,
    dequantize_4bit,
    exact_mean,
    quantize_blockwise,
)

PANEL = 16  # outputs of a line
LINE_INPUTS = 8
_LINES = BLOCKSIZE // LINE_INPUTS
_BYTES = LINE_INPUTS // 2  # of an output in a line


@dataclass(frozen=True)
class PackedNf4:
    """A matrix in NF4; shape is (in, out).

    codes: uint8 (panels, groups, 8 lines, 16 outputs, 4): byte b has inputs b, in the low half, and b + 4 of
    eight.
    absmax: the scale of each block, (panels, groups, 16 outputs): uint8 codes of dynamic_map(), each times the
    nested_absmax of its 256 blocks, float32 (ceil(out * groups / 256),), plus nested_offset, float32 (1,); blocks are
    counted output by output. Without double quantisation absmax is float32 and the other two are None.
    """

    codes: NDArray[np.uint8]
    absmax: NDArray[Any]
    nested_absmax: NDArray[np.float32] | None
    nested_offset: NDArray[np.float32] | None
    shape: tuple[int, int]

    def parts(self) -> dict[str, NDArray[Any]]:
        """Give the arrays by what follows the weight's name in files and in the core."""
        parts = {"": self.codes, ".absmax": self.absmax}
        if self.nested_absmax is not None and self.nested_offset is not None:
            parts |= {".nested_absmax": self.nested_absmax, ".nested_offset": self.nested_offset}
        return parts

    @property
    def nbytes(self) -> int:
        """How many bytes the arrays have."""
        return sum(array.nbytes for array in self.parts().values())


def nf4_shapes(shape: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Give the shapes of the parts of a matrix (in, out) with double quantisation. Raises ConfigError."""
    check_nf4_inputs(shape[0])
    panels, groups = -(-shape[1] // PANEL), shape[0] // BLOCKSIZE
    return {
        "": (panels, groups, _LINES, PANEL, _BYTES),
        ".absmax": (panels, groups, PANEL),
        ".nested_absmax": (-(-shape[1] * groups // NESTED_BLOCKSIZE),),
        ".nested_offset": (1,),
    }


def check_nf4_inputs(inputs: int) -> None:
    """Raise ConfigError where blocks of 64 would run from one output into the next."""
    if inputs % BLOCKSIZE:
        raise ConfigError(f"the matrix has {inputs} inputs; NF4 needs a multiple of {BLOCKSIZE}")


def pack_nf4(matrix: Quantized4bit, threads: int = 1) -> PackedNf4:
    """Put codes and scales of a matrix (out, in) in the order of memory, bit for bit.

    Raises ConfigError for other blocks or numbers than those of NF4, and for scales that are not finite.
    """
    outputs, inputs = matrix.shape
    check_nf4_inputs(inputs)
    if matrix.blocksize != BLOCKSIZE:
        raise ConfigError(f"its blocks are of {matrix.blocksize} weights, not of {BLOCKSIZE}")
    if not np.array_equal(matrix.code, NF4):
        raise ConfigError("its numbers are not those of NF4")
    codes = _native.repack_nf4(np.ascontiguousarray(matrix.packed), inputs, outputs, threads)
    absmax = _to_panels(matrix.absmax.reshape(outputs, inputs // BLOCKSIZE))
    nested = matrix.nested
    if nested is None:
        packed = PackedNf4(codes, absmax, None, None, (inputs, outputs))
    else:
        if nested.blocksize != NESTED_BLOCKSIZE or not np.array_equal(nested.code, dynamic_map()):
            raise ConfigError("its double quantisation is not that of bitsandbytes")
        offset = np.array([nested.offset], np.float32)
        packed = PackedNf4(
            codes, absmax, np.ascontiguousarray(nested.absmax, np.float32), offset, (inputs, outputs)
        )
    check_scales(packed)
    return packed


def packed_nf4(weights: NDArray[Any], threads: int = 1) -> PackedNf4:
    """Give pack_nf4(quantize_4bit(weights.T, "nf4", double_quant=True)), to the bit, at the speed of memory.

    weights: (in, out), float32, float16, or uint16 holding the bits of bfloat16. Raises ConfigError for weights that
    are not finite and for inputs that fill no blocks.
    """
    inputs, outputs = weights.shape
    check_nf4_inputs(inputs)
    packed = _native.pack_nf4(np.ascontiguousarray(weights), threads)
    if packed is None:
        raise ConfigError("the matrix has weights that are not finite")
    codes, scales = packed
    flat = _from_panels(scales, outputs).reshape(-1)
    offset = np.array([exact_mean(flat)], np.float32)
    absmax, nested = quantize_blockwise(flat - offset)
    return PackedNf4(
        codes, _to_panels(absmax.reshape(outputs, inputs // BLOCKSIZE)), nested, offset, (inputs, outputs)
    )


def unpack_nf4(packed: PackedNf4) -> Quantized4bit:
    """Give the matrix (out, in) as bitsandbytes holds it."""
    inputs, outputs = packed.shape
    eights = np.concatenate((packed.codes & np.uint8(15), packed.codes >> np.uint8(4)), axis=-1)
    pairs = eights[..., ::2] << np.uint8(4) | eights[..., 1::2]
    rows = pairs.transpose(0, 3, 1, 2, 4).reshape(-1, inputs // 2)[:outputs]
    nested = None
    if packed.nested_absmax is not None and packed.nested_offset is not None:
        nested = NestedScales(packed.nested_absmax, dynamic_map(), float(packed.nested_offset[0]))
    absmax = _from_panels(packed.absmax, outputs).reshape(-1)
    return Quantized4bit(
        np.ascontiguousarray(rows).reshape(-1), absmax, NF4, "nf4", (outputs, inputs), nested=nested
    )


def dequantize_nf4(packed: PackedNf4) -> NDArray[np.float32]:
    """Give the matrix (in, out) in float32: scale times number, rounded once."""
    return np.ascontiguousarray(dequantize_4bit(unpack_nf4(packed)).T)


def check_scales(packed: PackedNf4) -> None:
    """Raise ConfigError for scales that are not finite."""
    for suffix, array in packed.parts().items():
        if array.dtype == np.float32 and not np.isfinite(array).all():
            raise ConfigError(f"its {suffix.removeprefix('.')} is not finite")


def _to_panels(blocks: NDArray[Any]) -> NDArray[Any]:
    """Put what belongs to blocks, (out, groups), into panels, (panels, groups, 16)."""
    outputs, groups = blocks.shape
    padded = np.zeros((-(-outputs // PANEL) * PANEL, groups), blocks.dtype)
    padded[:outputs] = blocks
    return np.ascontiguousarray(padded.reshape(-1, PANEL, groups).transpose(0, 2, 1))


def _from_panels(panels: NDArray[Any], outputs: int) -> NDArray[Any]:
    """Undo _to_panels."""
    count, groups = panels.shape[:2]
    return np.ascontiguousarray(panels.transpose(0, 2, 1).reshape(count * PANEL, groups)[:outputs])
