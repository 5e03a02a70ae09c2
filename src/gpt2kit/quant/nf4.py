"""NF4 in the order of memory of the native engine: bitsandbytes' 4 bits, of which four_bit.py defines the numbers.

A matrix (in, out) has blocks of 64 inputs of one output; in is a multiple of 64, so that no block runs from one
output into the next. Codes lie packed: cut into panels of 16 outputs and groups of 64 inputs, and there into lines
of 16 outputs by 8 inputs. So a product reads them in order, with registers of any width.

pack_nf4 defines the order; packed_nf4 quantises too, in C++, and is what loading uses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2kit import _native
from gpt2kit.checkpoint.packed import NESTED_BLOCK, PANEL, PackedNf4, check_nf4_inputs
from gpt2kit.errors import ConfigError
from gpt2kit.quant.codes import NF4, dynamic_map
from gpt2kit.quant.four_bit import (
    BLOCKSIZE,
    NestedScales,
    Quantized4bit,
    dequantize_4bit,
    exact_mean,
    quantize_blockwise,
)


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
        _check_finite(absmax)
        return PackedNf4(codes, absmax, None, None, (inputs, outputs))
    if nested.blocksize != NESTED_BLOCK or not np.array_equal(nested.code, dynamic_map()):
        raise ConfigError("its double quantisation is not that of bitsandbytes")
    nested_absmax = np.ascontiguousarray(nested.absmax, np.float32)
    offset = np.array([nested.offset], np.float32)
    _check_finite(nested_absmax, offset)
    return PackedNf4(codes, absmax, nested_absmax, offset, (inputs, outputs))


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
    codes = np.asarray(packed.codes)
    eights = np.concatenate((codes & np.uint8(15), codes >> np.uint8(4)), axis=-1)
    pairs = eights[..., ::2] << np.uint8(4) | eights[..., 1::2]
    rows = pairs.transpose(0, 3, 1, 2, 4).reshape(-1, inputs // 2)[:outputs]
    nested = None
    if packed.nested_absmax is not None and packed.nested_offset is not None:
        nested = NestedScales(np.asarray(packed.nested_absmax), dynamic_map(), float(packed.nested_offset[0]))
    absmax = _from_panels(np.asarray(packed.absmax), outputs).reshape(-1)
    return Quantized4bit(
        np.ascontiguousarray(rows).reshape(-1), absmax, NF4, "nf4", (outputs, inputs), nested=nested
    )


def dequantize_nf4(packed: PackedNf4) -> NDArray[np.float32]:
    """Give the matrix (in, out) in float32: scale times number, rounded once."""
    return np.ascontiguousarray(dequantize_4bit(unpack_nf4(packed)).T)


def _check_finite(*scales: NDArray[np.float32]) -> None:
    if not all(np.isfinite(array).all() for array in scales):
        raise ConfigError("its scales are not finite")


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
