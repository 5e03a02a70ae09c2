import numpy as np
import pytest

from gpt2kit.errors import GenerationError
from gpt2kit.generation.random import coin
from gpt2kit.generation.sampling import sample

F = np.float32


def slow_sample(scores, chance):
    """The definition, one id at a time."""
    highest = max(float(s) for s in scores)
    weights = [float(np.exp(np.float64(s) - highest)) for s in scores]
    total = 0.0
    for weight in weights:
        total += weight
    running = 0.0
    for index, weight in enumerate(weights):
        running += weight
        if running > chance * total:
            return index
    return max(index for index, weight in enumerate(weights) if weight > 0)


def test_greedy_takes_the_lowest_id_of_a_tie():
    assert sample(np.array([1, 5, 5, -np.inf], dtype=F), None) == 1


def test_sampling_follows_the_definition_on_random_scores():
    rng = np.random.default_rng(0)
    for trial in range(300):
        scores = rng.normal(0, 4, rng.integers(1, 60)).astype(F)
        scores[rng.random(len(scores)) < 0.3] = -np.inf
        scores[rng.integers(len(scores))] = 1.0
        chance = coin(trial, 0, 0)
        assert sample(scores, chance) == slow_sample(scores, chance)


@pytest.mark.parametrize(
    ("chance", "expected"), [(0.0, 1), (0.499, 1), (0.5, 3), (0.999, 3), (1 - 2**-53, 3)]
)
def test_an_impossible_id_is_never_chosen(chance, expected):
    scores = np.array([-np.inf, 0, -np.inf, 0, -np.inf], dtype=F)
    assert sample(scores, chance) == expected


def test_a_score_too_low_for_a_probability_is_never_chosen():
    assert sample(np.array([-2000, 0, -2000], dtype=F), 1 - 2**-53) == 1
    assert sample(np.array([-2000, 0, -2000], dtype=F), 0.0) == 1


def test_frequencies_are_the_probabilities():
    scores = np.log(np.array([0.5, 0.1, 0.4], dtype=F))
    counts = np.bincount([sample(scores, coin(1, 0, p)) for p in range(4000)], minlength=3) / 4000
    # Five standard errors of a proportion over 4000 draws.
    np.testing.assert_allclose(counts, [0.5, 0.1, 0.4], atol=5 * 0.5 / np.sqrt(4000))


@pytest.mark.parametrize("chance", [None, 0.5])
@pytest.mark.parametrize(
    ("scores", "message"),
    [([-np.inf, -np.inf], "no token is left"), ([0, np.nan], "hold nan"), ([np.inf, 0], "hold inf")],
)
def test_scores_without_a_choice_are_refused(scores, message, chance):
    with pytest.raises(GenerationError, match=message):
        sample(np.array(scores, dtype=F), chance)
