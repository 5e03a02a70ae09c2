"""int8: weights as integers of 8 bits with a scale for each 64 inputs of an output, as the native engine reads them.

A weight is an exact product in float32: its code, -127 to 127, times a scale, a bfloat16. Matrices are (in, out);
the embeddings, (vocabulary, channels), are quantised transposed, as the head multiplies by them.

In memory and in files codes lie packed: cut into panels of 16 outputs and groups of 64 inputs, and there into
lines of 16 outputs by 4 inputs. So a product reads them in order, with registers of any width.

quantize_int8 and pack_int8 define the format; packed_int8 is both in one, in C++, and what loading uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2kit import _native
from gpt2kit.checkpoint.packed import GROUP, LINE_INPUTS, LINES, PANEL, PackedInt8, packed_shapes
from gpt2kit.errors import ConfigError

_OFFSET = 128  # packed codes are unsigned
_LIMIT = np.float32(2.0**126)  # of magnitudes, so that no scale, rounded up, makes an infinite weight
_REFUSAL = "the matrix has weights that are not finite, or too large for int8"


@dataclass(frozen=True)
class Int8Matrix:
    """A matrix in 8 bits. codes: int8 (in, out); scales: the bits of bfloat16, uint16 (ceil(in / 64), out)."""

    codes: NDArray[np.int8]
    scales: NDArray[np.uint16]


def quantize_int8(weights: NDArray[Any]) -> Int8Matrix:
    """Quantise a matrix (in, out) of float32 or float16.

    The scale of a group is its largest magnitude / 127, rounded up to a bfloat16; a code is the weight / scale, to
    nearest, ties to even. Raises ConfigError for weights that are not finite, or of 2^126 and above.
    """
    rows, columns = weights.shape
    groups = -(-rows // GROUP)
    values = np.zeros((groups * GROUP, columns), np.float32)
    values[:rows] = weights
    blocks = values.reshape(groups, GROUP, columns)
    largest = np.abs(blocks).max(axis=1, initial=0)
    if not (largest < _LIMIT).all():
        raise ConfigError(_REFUSAL)
    bits = (largest / np.float32(127)).view(np.uint32)
    scales = ((bits + np.uint32(0xFFFF)) >> np.uint32(16)).astype(np.uint16)
    # Blocks of zeros have the scale 0.
    blocks /= np.where(scales == 0, np.float32(1), _float32(scales))[:, None]
    codes = np.rint(values, out=values)[:rows].astype(np.int8)
    return Int8Matrix(codes, scales)


def dequantize_int8(matrix: Int8Matrix) -> NDArray[np.float32]:
    """Give the matrix (in, out) in float32, exactly."""
    scales = np.repeat(_float32(matrix.scales), GROUP, axis=0)[: len(matrix.codes)]
    values: NDArray[np.float32] = matrix.codes * scales
    return values


def pack_int8(matrix: Int8Matrix) -> PackedInt8:
    """Put codes and scales in the order of memory."""
    shape = (matrix.codes.shape[0], matrix.codes.shape[1])
    codes_shape, scales_shape = packed_shapes(shape)
    panels, groups = scales_shape[:2]
    padded = np.zeros((groups * GROUP, panels * PANEL), np.int8)
    padded[: shape[0], : shape[1]] = matrix.codes
    lines = padded.reshape(groups, LINES, LINE_INPUTS, panels, PANEL).transpose(3, 0, 1, 4, 2)
    codes = np.ascontiguousarray(lines).view(np.uint8) ^ np.uint8(_OFFSET)
    scales = np.zeros((groups, panels * PANEL), np.uint16)
    scales[:, : shape[1]] = matrix.scales
    return PackedInt8(
        codes.reshape(codes_shape),
        np.ascontiguousarray(scales.reshape(groups, panels, PANEL).transpose(1, 0, 2)),
        shape,
    )


def unpack_int8(packed: PackedInt8) -> Int8Matrix:
    """Give codes and scales as a matrix has them."""
    rows, columns = packed.shape
    all_codes, all_scales = np.asarray(packed.codes), np.asarray(packed.scales)
    panels, groups = all_scales.shape[:2]
    signed = (all_codes ^ np.uint8(_OFFSET)).view(np.int8)
    codes = signed.transpose(1, 2, 4, 0, 3).reshape(groups * GROUP, panels * PANEL)[:rows, :columns]
    scales = all_scales.transpose(1, 0, 2).reshape(groups, panels * PANEL)[:, :columns]
    return Int8Matrix(np.ascontiguousarray(codes), np.ascontiguousarray(scales))


def packed_int8(weights: NDArray[Any], threads: int = 1) -> PackedInt8:
    """Give pack_int8(quantize_int8(weights)), to the bit, at the speed of memory.

    weights: (in, out), float32, float16, or uint16 holding the bits of bfloat16; a transposed view, as the embeddings
    come, is read where it lies. Raises ConfigError as quantize_int8 does.
    """
    is_transposed = weights.flags.f_contiguous and not weights.flags.c_contiguous
    stored = weights.T if is_transposed else np.ascontiguousarray(weights)
    packed = _native.pack_int8(stored, is_transposed, threads)
    if packed is None:
        raise ConfigError(_REFUSAL)
    return PackedInt8(*packed, (weights.shape[0], weights.shape[1]))


def _float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Widen bfloat16."""
    wide: NDArray[np.uint32] = bits.astype(np.uint32) << np.uint32(16)
    return wide.view(np.float32)
