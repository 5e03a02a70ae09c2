"""4-bit weights: blocks of 64, each with its largest magnitude as a scale, two codes a byte.

A weight is its block's scale times a number of the code book (codes.py). With double quantisation the scales,
less their mean, are held in 8 bits in blocks of 256. Blocks run through a matrix row by row and do not care where
a row ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2kit.errors import ConfigError
from gpt2kit.quant.codes import CODES, dynamic_map

BLOCKSIZE = 64
BLOCKSIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
NESTED_BLOCKSIZE = 256
_PANEL = 2**15  # weights that are worked on at a time: they and their codes stay in the cache
_STEPS = 2**16  # of the table by which bitsandbytes finds the nearest of 256 numbers
_SMALLEST = np.float32(1e-38)  # divisor of a block of zeros

Mean = Callable[[NDArray[np.float32]], float]


@dataclass(frozen=True)
class NestedScales:
    """What turns a scale's 8 bits into a number: code[bits] * absmax[block] + offset.

    absmax: float32 (blocks of blocksize scales,).  code: float32 (256,), ascending.
    """

    absmax: NDArray[np.float32]
    code: NDArray[np.float32]
    offset: float
    blocksize: int = NESTED_BLOCKSIZE


@dataclass(frozen=True)
class Quantized4bit:
    """A matrix in 4 bits.

    packed: uint8 (ceil(n / 2),); the first of two weights is in the high half of the byte.
    absmax: a scale a block, float32, or with nested its 8 bits, uint8.  code: float32 (16,).
    quant_type: "nf4" or "fp4".  shape: of the matrix, (out, in).  dtype: the name of the format that the weights
    had, to which bitsandbytes dequantises them.
    """

    packed: NDArray[np.uint8]
    absmax: NDArray[Any]
    code: NDArray[np.float32]
    quant_type: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    blocksize: int = BLOCKSIZE
    nested: NestedScales | None = None


def exact_mean(values: NDArray[np.float32]) -> float:
    """Give the mean as the nearest float32."""
    return float(np.float32(values.mean(dtype=np.float64)))


def quantize_4bit(
    weights: NDArray[Any],
    quant_type: str,
    *,
    blocksize: int = BLOCKSIZE,
    double_quant: bool = False,
    dtype: str = "float32",
    mean: Mean = exact_mean,
) -> Quantized4bit:
    """Quantise a matrix of float32 or float16, (out, in), by its nearest codes.

    quant_type: "nf4" or "fp4". dtype is only noted. mean of the scales, for double_quant: bitsandbytes adds them
    up in float32 in an order that depends on the processor; pass torch's to get its last bit.
    Raises ConfigError for an unknown quant_type or blocksize, and in double_quant for weights whose scales have
    no finite mean.
    """
    if quant_type not in CODES:
        raise ConfigError(f"quant_type is {quant_type!r}; allowed: {', '.join(CODES)}")
    if blocksize not in BLOCKSIZES:
        raise ConfigError(f"blocksize is {blocksize}; allowed: {', '.join(map(str, BLOCKSIZES))}")
    flat = np.ascontiguousarray(weights).reshape(-1)
    packed = np.empty(-(-flat.size // 2), np.uint8)
    absmax = np.empty(-(-flat.size // blocksize), np.float32)
    for start in range(0, flat.size, _PANEL):
        panel = flat[start : start + _PANEL].astype(np.float32)
        scales = absmax[start // blocksize :][: -(-panel.size // blocksize)]
        codes = _nearest(_scaled(panel, blocksize, scales), quant_type)
        if codes.size % 2:
            codes = np.append(codes, _nearest(np.zeros(1, np.float32), quant_type))
        packed[start // 2 :][: codes.size // 2] = codes[::2] << 4 | codes[1::2]
    nested = None
    stored: NDArray[Any] = absmax
    if double_quant:
        offset = mean(absmax)
        if not math.isfinite(offset):
            raise ConfigError("the weights are not finite, or too large for double quantisation")
        stored, nested_absmax = quantize_blockwise(absmax - np.float32(offset))
        nested = NestedScales(nested_absmax, dynamic_map(), offset)
    return Quantized4bit(
        packed, stored, CODES[quant_type], quant_type, weights.shape, dtype, blocksize, nested
    )


def dequantize_4bit(weights: Quantized4bit) -> NDArray[np.float32]:
    """Give the matrix in float32: scale times code, rounded once."""
    n = int(np.prod(weights.shape))
    pairs = np.empty((weights.packed.size, 2), np.float32)
    pairs[:, 0] = weights.code[weights.packed >> 4]
    pairs[:, 1] = weights.code[weights.packed & 15]
    values = pairs.reshape(-1)[:n]
    scales = scales_4bit(weights)
    full = n // weights.blocksize * weights.blocksize
    blocks = values[:full].reshape(-1, weights.blocksize)
    with np.errstate(invalid="ignore"):  # an infinite scale, of weights that were not finite
        blocks *= scales[: len(blocks), None]
        values[full:] *= scales[len(blocks) :]
    return values.reshape(weights.shape)


def scales_4bit(weights: Quantized4bit) -> NDArray[np.float32]:
    """Give the scale of each block, float32, which double quantisation holds in 8 bits."""
    if weights.nested is None:
        return weights.absmax
    nested = weights.nested
    outer = np.repeat(nested.absmax, nested.blocksize)[: weights.absmax.size]
    scales: NDArray[np.float32] = nested.code[weights.absmax] * outer + np.float32(nested.offset)
    return scales


def quantize_blockwise(
    values: NDArray[np.float32], blocksize: int = NESTED_BLOCKSIZE
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Quantise float32 values (n,) by dynamic_map(); give 8 bits each and a scale a block.

    As bitsandbytes does on the CPU: the nearest number is looked up in a table of 65,536 steps of [-1, 1], which
    near a middle between two numbers can choose the other one. A block of zeros has the code 0.
    """
    blocks = np.zeros((-(-values.size // blocksize), blocksize), np.float32)
    blocks.reshape(-1)[: values.size] = np.abs(values)
    absmax = blocks.max(axis=1)
    scale = np.repeat(absmax, blocksize)[: values.size]
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        ratio = np.clip(values * (np.float32(1) / scale), -1, 1, dtype=np.float32)
    # 0 times infinity, in a block so small that its reciprocal overflows, is -1 to bitsandbytes.
    half = (np.nan_to_num(ratio, nan=-1.0) + np.float32(1)) * np.float32(0.5)
    # float64 stands for a fused multiply-add, which rounds once.
    step = (half * np.float64(_STEPS - 1) + 0.5).astype(np.float32).astype(np.int64)
    return np.where(scale == 0, np.uint8(0), _nearest_steps()[np.minimum(step, _STEPS - 1)]), absmax


@cache
def _nearest_steps() -> NDArray[np.uint8]:
    """Give the code of the nearest number for each of the steps of [-1, 1]."""
    code = dynamic_map()
    middles = np.float32(0.5) * (code[:-1] + code[1:])
    places = np.float32(-1) + np.arange(_STEPS, dtype=np.float32) * np.float32(2) / np.float32(_STEPS - 1)
    steps: NDArray[np.uint8] = np.searchsorted(middles, places).astype(np.uint8)
    return steps


def _scaled(panel: NDArray[np.float32], blocksize: int, scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide each block by its largest magnitude, in place, and write the magnitudes to scales."""
    full = panel.size // blocksize * blocksize
    blocks = panel[:full].reshape(-1, blocksize)
    scales[: len(blocks)] = np.abs(blocks).max(axis=1, initial=0)
    with np.errstate(over="ignore", invalid="ignore"):
        # A product with the reciprocal, but in a last block that is short a quotient: as bitsandbytes rounds.
        blocks *= (np.float32(1) / np.maximum(scales[: len(blocks)], _SMALLEST))[:, None]
        if full < panel.size:
            scales[-1] = np.maximum(np.abs(panel[full:]).max(), _SMALLEST)
            panel[full:] /= scales[-1]
    return np.clip(panel, -1, 1, out=panel)


def _nearest(values: NDArray[np.float32], quant_type: str) -> NDArray[np.uint8]:
    """Give the code of the nearest number, the smaller one in a tie."""
    code = CODES[quant_type]
    order = np.argsort(code, kind="stable").astype(np.uint8)
    middles = (code[order[:-1]] + code[order[1:]]) / np.float32(2)
    place = np.full(values.shape, len(middles), np.uint8)
    is_below = np.empty(values.shape, np.bool_)
    # A pass a middle: each is a fraction of a nanosecond a weight, where a binary search takes twenty.
    for middle in middles:
        np.less_equal(values, middle, out=is_below)
        place -= is_below.view(np.uint8)
    return order[place]
