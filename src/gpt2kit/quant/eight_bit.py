"""8-bit weights as LLM.int8() has them: a row's largest magnitude is its scale, 127 of its integers.

Dettmers et al., "LLM.int8()" (https://arxiv.org/abs/2208.07339).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# bitsandbytes multiplies by this rounded reciprocal rather than dividing.
PER_STEP = np.float32(1 / 127)


@dataclass(frozen=True)
class Quantized8bit:
    """A matrix in 8 bits: codes int8 (out, in), absmax float32 (out,); files call the latter SCB."""

    codes: NDArray[np.int8]
    absmax: NDArray[np.float32]


def quantize_8bit(weights: NDArray[Any]) -> Quantized8bit:
    """Quantise a matrix of float32 or float16, (out, in), a row at a time.

    The weights are rounded to float16 first, as bitsandbytes does: magnitudes past 65504 are not representable.
    A row of zeros has the scale 0.
    """
    absmax = np.empty(len(weights), np.float32)
    codes = np.empty(weights.shape, np.int8)
    for row, values in enumerate(weights):
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            values = values.astype(np.float16).astype(np.float32)
            absmax[row] = np.abs(values).max(initial=0)
            # Rounded twice, as torch divides a number by a tensor.
            values *= np.float32(1) / absmax[row] * np.float32(127)
            codes[row] = np.nan_to_num(np.rint(values), nan=0.0)
    return Quantized8bit(codes, absmax)


def dequantize_8bit(weights: Quantized8bit) -> NDArray[np.float32]:
    """Give the matrix in float32."""
    with np.errstate(invalid="ignore"):  # an infinite scale, of weights past float16
        values: NDArray[np.float32] = weights.codes * weights.absmax[:, None] * PER_STEP
    return values
