"""CRC-32C (Castagnoli), the checksum of TensorFlow's files, with numpy: many stretches of the data at once.

A checksum without its initial value is linear, so stretches can be summed apart and put together: that of AB
is that of A, moved on by as many zero bytes as B has, plus that of B. Tables: Sarwate 1988, for 16 bits.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78  # reflected
_ONES = 0xFFFFFFFF
_MASK_DELTA = 0xA282EAD8  # with which TensorFlow masks checksums that are stored beside their data
_BLOCK = 2**22  # bytes summed at a time: they stay in a cache while they are turned around
_STRETCH = 2**10  # bytes that are summed one after the other

Words = NDArray[np.uint32]


def crc32c(data: NDArray[np.uint8], crc: int = 0) -> int:
    """Give the checksum of bytes that follow those of checksum `crc`."""
    state = crc ^ _ONES
    for start in range(0, data.size, _BLOCK):
        state = _advance(data[start : start + _BLOCK], state)
    return state ^ _ONES


def unmask(masked: int) -> int:
    """Give the checksum that a stored, masked one stands for."""
    rotated = (masked - _MASK_DELTA) & _ONES
    return (rotated >> 17) | (rotated << 15) & _ONES


def mask(crc: int) -> int:
    """Give the masked form in which a checksum is stored."""
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & _ONES


def _advance(data: NDArray[np.uint8], state: int) -> int:
    if data.size < 2 * _STRETCH:
        table = _bytes()
        for byte in data.tolist():
            state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
        return state
    lanes = 1 << (-(-data.size // _STRETCH) - 1).bit_length()
    padded = np.zeros(lanes * _STRETCH, np.uint8)  # zeros in front change nothing
    first = padded.size - data.size
    padded[first:] = data
    padded[first : first + 4] ^= np.frombuffer(state.to_bytes(4, "little"), np.uint8)
    columns = np.ascontiguousarray(padded.view("<u4").reshape(lanes, -1).T)
    low, high = _halves()
    sums: Words = np.zeros(lanes, np.uint32)
    for column in columns:
        words = (sums ^ column).view("<u2")
        sums = low.take(words[0::2]) ^ high.take(words[1::2])
    level = _STRETCH.bit_length() - 1
    while sums.size > 1:
        sums = _apply(_zeros(level), sums[0::2]) ^ sums[1::2]
        level += 1
    return int(sums[0])


@cache
def _bytes() -> list[int]:
    """What a state of one byte becomes after that byte."""
    table = list(range(256))
    for _ in range(8):
        table = [(x >> 1) ^ (_POLYNOMIAL if x & 1 else 0) for x in table]
    return table


@cache
def _halves() -> tuple[Words, Words]:
    """What the lower and the upper half of a state become after four bytes."""
    low: Words = np.arange(2**16, dtype=np.uint32)
    high: Words = low << np.uint32(16)
    table = np.array(_bytes(), np.uint32)
    for _ in range(4):
        low = table[low & np.uint32(0xFF)] ^ (low >> np.uint32(8))
        high = table[high & np.uint32(0xFF)] ^ (high >> np.uint32(8))
    return low, high


@cache
def _zeros(level: int) -> Words:
    """What each of the 32 bits of a state becomes after 2^level zero bytes."""
    if level == 0:
        bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
        after: Words = np.array(_bytes(), np.uint32)[bits & 0xFF] ^ (bits >> 8)
        return after
    half = _zeros(level - 1)
    return _apply(half, half)


def _apply(bits: Words, states: Words) -> Words:
    """Move states on, given what each of their bits becomes."""
    moved: Words = np.zeros_like(states)
    for i in range(32):
        moved ^= bits[i] * ((states >> np.uint32(i)) & np.uint32(1))
    return moved
