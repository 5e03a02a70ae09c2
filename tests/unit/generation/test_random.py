"""The random numbers are frozen: a change here changes every sampled text that anybody has a seed for."""

import numpy as np
import pytest

from gpt2kit.errors import GenerationError
from gpt2kit.generation.random import coin, philox4x32, seeds_for

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        # Known answers of the Random123 distribution.
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, expected):
    assert philox4x32(counter, key) == expected


@pytest.mark.parametrize(
    ("seed", "row", "position", "expected"),
    [
        (0, 0, 0, 0.39904647231489565),
        (42, 0, 5, 0.31484747151633996),
        (42, 1, 5, 0.3070581478342903),
        (2**64 - 1, 3, 1023, 0.5728294731003476),
        (123456789012345678, 0, 2**32, 0.07761331535840965),
    ],
)
def test_coin_is_frozen(seed, row, position, expected):
    assert coin(seed, row, position) == expected


def test_coins_are_uniform_and_differ_in_every_argument():
    coins = np.array([[[coin(s, r, p) for p in range(20)] for r in range(10)] for s in range(20)]).ravel()
    assert len(np.unique(coins)) == len(coins)
    assert coins.min() >= 0.0 and coins.max() < 1.0
    # 4000 draws: the mean of uniforms lies within 5 standard errors, 5 / sqrt(12 * 4000).
    assert abs(coins.mean() - 0.5) < 0.023
    assert np.histogram(coins, bins=10, range=(0, 1))[0].min() > 300


def test_one_seed_serves_every_prompt_and_a_list_serves_one_each():
    assert seeds_for(7, 3) == [7, 7, 7]
    assert seeds_for([1, 2**64 - 1], 2) == [1, 2**64 - 1]


def test_no_seed_draws_a_fresh_one_for_each_prompt():
    seeds = seeds_for(None, 8)
    assert len(set(seeds)) == 8
    assert seeds_for(None, 8) != seeds


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (-1, "from 0 to 2"),
        (2**64, "from 0 to 2"),
        (1.5, "must be an int"),
        (True, "must be an int"),
        ([1], "has 1 entries for 2 prompts"),
        ("ab", "must be an int"),
    ],
)
def test_bad_seeds_are_refused(seed, message):
    with pytest.raises(GenerationError, match=message):
        seeds_for(seed, 2)
