"""torch's random numbers on the CPU, for what must agree with watermarks that were made with torch.

torch.Generator on the CPU is the Mersenne twister MT19937, seeded with the low 32 bits of the seed;
torch.randperm is a Fisher-Yates shuffle from the front, one draw modulo what is left for each place.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gpt2kit.generation.processors.scores import Ids


def draws(seed: int, count: int) -> npt.NDArray[np.uint32]:
    """Return the first 32-bit words of torch.Generator().manual_seed(seed)."""
    twister = np.random.RandomState(seed & 0xFFFFFFFF)
    return twister.randint(0, 2**32, size=count, dtype=np.uint32)


def random_bits(seed: int, count: int) -> Ids:
    """Return torch.randint(0, 2, (count,), generator=...)."""
    return (draws(seed, count) & 1).astype(np.int64)


def permutation(seed: int, size: int, count: int | None = None) -> Ids:
    """Return torch.randperm(size, generator=...), or its first `count` places."""
    places = list(range(size))
    partners = _partners(seed, size, size if count is None else count)
    for place, partner in enumerate(partners.tolist()):
        places[place], places[partner] = places[partner], places[place]
    return np.asarray(places[:count], dtype=np.int64)


def is_among_first(seed: int, size: int, count: int, item: int) -> bool:
    """Tell whether torch.randperm(size, generator=...) has `item` in its first `count` places.

    Follows that one item through the swaps, without making the permutation.
    """
    partners = _partners(seed, size, count)
    where, begin = item, 0
    while True:
        # Nothing touches the item until a place takes it as a partner, or the shuffle comes to its place.
        taken = np.flatnonzero(partners[begin : where + 1] == where)
        if len(taken):
            return True
        if where >= len(partners):
            return where < count
        begin, where = where + 1, int(partners[where])


def _partners(seed: int, size: int, count: int) -> Ids:
    """Return for each of the first places the place that it is swapped with."""
    place = np.arange(min(count, size - 1), dtype=np.int64)
    return place + draws(seed, len(place)).astype(np.int64) % (size - place)
