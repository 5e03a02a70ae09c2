"""Code books: the numbers in [-1, 1] that 4 and 8 bits stand for."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

# NormalFloat: quantiles of a normal distribution, so that weights use all codes alike. QLoRA
# (https://arxiv.org/abs/2305.14314), appendix E.
NF4: NDArray[np.float32] = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    dtype=np.float32,
)  # fmt: skip
# A sign, two bits of exponent and one of fraction, in the order of the bits; 12 is the largest.
_FP4_MAGNITUDES = np.array([0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0], dtype=np.float32) / np.float32(12)
FP4: NDArray[np.float32] = np.concatenate((_FP4_MAGNITUDES, np.float32(0) - _FP4_MAGNITUDES))
CODES = {"nf4": NF4, "fp4": FP4}


@cache
def dynamic_map() -> NDArray[np.float32]:
    """Give the 256 numbers of the 8-bit dynamic data type, ascending.

    Seven decades; the larger the decade, the finer it is divided: 2^i steps from 0.1 to 1 times 10^(i-6) for i
    from 0 to 6, each with both signs, and 0 and 1. "8-Bit Approximations for Parallelism in Deep Learning"
    (https://arxiv.org/abs/1511.04561). The bits are those of bitsandbytes.
    """
    numbers = [np.zeros(1, np.float32), np.ones(1, np.float32)]
    for i in range(7):
        edges = _edges(2**i)
        middles = (edges[:-1] + edges[1:]) / np.float32(2)
        scaled = np.float32(10.0 ** (i - 6)) * middles
        numbers += [scaled, -scaled]
    ordered: NDArray[np.float32] = np.sort(np.concatenate(numbers))
    ordered.flags.writeable = False
    return ordered


def _edges(count: int) -> NDArray[np.float32]:
    """Divide [0.1, 1] into `count` equal parts as torch.linspace does: each half from its own end.

    Each number is rounded once: float64 stands for the fused multiply-add.
    """
    step = np.float64((np.float32(1) - np.float32(0.1)) / np.float32(count))
    below = np.arange((count + 1) // 2)
    above = np.arange((count + 1) // 2, count + 1)
    return np.concatenate((np.float32(0.1) + step * below, 1.0 - step * (count - above))).astype(np.float32)
