"""The random number of a token: a pure function of (seed, row, position).

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) is a block cipher used as a
counter-based generator: no state, so a prompt gets the same numbers alone and in a batch, in any order of
work.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from gpt2kit.errors import GenerationError

_MASK32 = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_MAX_SEED = 2**64 - 1


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the four 32-bit words that ten rounds of Philox4x32 make of a counter under a key."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0 = _MULTIPLIERS[0] * c0
        product1 = _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & _MASK32,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & _MASK32,
        )
        k0 = (k0 + _KEY_STEPS[0]) & _MASK32
        k1 = (k1 + _KEY_STEPS[1]) & _MASK32
    return c0, c1, c2, c3


def coin(seed: int, row: int, position: int) -> float:
    """Return the uniform number in [0, 1) that chooses one token.

    seed: 0 .. 2**64-1, the key (low word, high word).
    row: index among the num_return_sequences of one prompt; not the index in the batch.
    position: index in the sequence, prompt included, of the token being chosen.
    The counter is (position low, position high, row, 0); of the first two output words w0 and w1 the result
    is ((w0 >> 5) * 2**26 + (w1 >> 6)) * 2**-53: 53 random bits, exact in float64.
    """
    counter = (position & _MASK32, position >> 32, row, 0)
    w0, w1, _, _ = philox4x32(counter, (seed & _MASK32, seed >> 32))
    return ((w0 >> 5) * 67108864 + (w1 >> 6)) * 2.0**-53


def seeds_for(seed: int | Sequence[int] | None, num_prompts: int) -> list[int]:
    """Return one 64-bit seed a prompt.

    One int serves every prompt, a list has one for each, None draws a fresh one for each.
    Raises GenerationError for a seed outside 0 .. 2**64-1 or a list of another length.
    """
    if seed is None:
        return [_fresh_seed() for _ in range(num_prompts)]
    if isinstance(seed, Sequence):
        if len(seed) != num_prompts:
            raise GenerationError(
                f"seed has {len(seed)} entries for {num_prompts} prompts; give one for each, or one int"
            )
        return [_checked_seed(value) for value in seed]
    return [_checked_seed(seed)] * num_prompts


def _fresh_seed() -> int:
    """Draw 53 random bits: every JSON reader keeps such a number exactly."""
    return int.from_bytes(os.urandom(8), "little") >> 11


def _checked_seed(seed: object) -> int:
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise GenerationError(f"seed must be an int from 0 to 2**64-1, got {seed!r}")
    value = int(seed.__index__())
    if not 0 <= value <= _MAX_SEED:
        raise GenerationError(f"seed must be from 0 to 2**64-1, got {value}")
    return value
