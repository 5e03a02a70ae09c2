import itertools
from collections import Counter

import numpy as np
import pytest

from all_sequences import log_p, tiny_engine
from fakes import FakeEngine
from gpt2kit.generation import coin, generate
from gpt2kit.generation.beams.candidates import draw


def probability_of_order(p, order):
    """The probability to draw these items in this order, one after the other, none twice."""
    result, left = 1.0, 1.0
    for item in order:
        result *= p[item] / left
        left -= p[item]
    return result


def chi_squared(counts, expected):
    """The statistic over its degrees of freedom: 1 on average, 2 is very rare for many cells."""
    return sum((counts[key] - e) ** 2 / e for key, e in expected.items()) / (len(expected) - 1)


def test_candidates_are_drawn_without_replacement_as_their_probabilities_say():
    totals = np.log(np.array([[0.4, 0.1, 0.0], [0.3, 0.15, 0.05]], dtype=np.float32) + np.float32(1e-45))
    totals[0, 2] = -np.inf
    p = np.exp(totals.astype(np.float64)).ravel()
    p /= p.sum()
    trials = 20000
    counts = Counter()
    for seed in range(trials):
        drawn = draw(totals, [coin(seed, number, 5) for number in range(3)])
        counts[tuple(c.beam * 3 + c.token_id for c in drawn)] += 1
    orders = list(itertools.permutations([0, 1, 3, 4, 5], 3))
    assert set(counts) <= set(orders)
    assert chi_squared(counts, {order: trials * probability_of_order(p, order) for order in orders}) < 1.6


@pytest.mark.parametrize("coin_value", [0.0, 0.5, 1.0 - 2.0**-53])
def test_every_candidate_is_drawn_once_whatever_the_coins(coin_value):
    rng = np.random.default_rng(3)
    totals = rng.normal(0, 30, (3, 40)).astype(np.float32)
    totals[rng.random((3, 40)) < 0.5] = -np.inf
    drawn = draw(totals, [coin_value] * 200)
    pairs = {(c.beam, c.token_id) for c in drawn}
    assert len(pairs) == len(drawn) <= np.isfinite(totals).sum()
    assert all(c.total == totals[c.beam, c.token_id] > -np.inf for c in drawn)


def test_nothing_is_drawn_from_nothing():
    assert draw(np.full((2, 3), -np.inf, dtype=np.float32), [0.5]) == []


def test_two_beams_end_with_two_tokens_that_were_drawn_first():
    engine = tiny_engine(4)
    p = np.exp(log_p(engine, [1, 2]))
    pairs = list(itertools.combinations(range(4), 2))
    trials = 3000
    counts = Counter()
    for seed in range(trials):
        rows = generate(engine, [[1, 2]], num_beams=2, num_return_sequences=2, do_sample=True, top_k=0,
                        max_new_tokens=1, eos_token_id=[], seed=seed)  # fmt: skip
        counts[tuple(sorted(row.ids[0] for row in rows))] += 1
    expected = {
        pair: trials * (probability_of_order(p, pair) + probability_of_order(p, pair[::-1])) for pair in pairs
    }
    expected = {pair: e for pair, e in expected.items() if e > 5}
    assert chi_squared(counts, expected) < 3


def test_the_random_numbers_of_a_step_are_coins_of_seed_draw_and_position():
    engine = FakeEngine()
    rows = generate(engine, [[3, 1, 4]], num_beams=2, num_return_sequences=2, do_sample=True, top_k=0, seed=9,
                    max_new_tokens=1, eos_token_id=[])  # fmt: skip
    drawn = draw(log_p(engine, [3, 1, 4]).astype(np.float32)[None], [coin(9, n, 3) for n in range(4)])[:2]
    assert [row.ids for row in rows] == [[c.token_id] for c in sorted(drawn, key=lambda c: -c.total)]


def test_a_seed_repeats_the_rows_and_another_does_not():
    options = {"num_beams": 3, "do_sample": True, "max_new_tokens": 12, "eos_token_id": []}
    first = generate(FakeEngine(), [[1]], **options)[0]
    assert generate(FakeEngine(), [[1]], seed=first.seed, **options)[0].ids == first.ids
    others = [generate(FakeEngine(), [[1]], seed=first.seed + i, **options)[0].ids for i in range(1, 9)]
    assert any(ids != first.ids for ids in others)  # two seeds may well choose the same beam


def test_every_beam_keeps_one_token_more_than_there_are_end_tokens():
    engine = FakeEngine()
    rows = generate(engine, [[1, 2]], num_beams=2, do_sample=True, top_k=1, top_p=0.01, seed=4, max_new_tokens=6,
                    eos_token_id=[3, 4, 5], output_scores=True, return_dict_in_generate=True)  # fmt: skip
    for scores in rows[0].steps.scores:
        assert (np.isfinite(scores).sum(axis=1) == 4).all()
