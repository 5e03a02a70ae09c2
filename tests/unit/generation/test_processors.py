"""What processors do apart from agreeing with Transformers (tests/parity/test_logits_processors.py)."""

import numpy as np
import pytest

from gpt2kit.config import GenerationConfig, GPT2Config
from gpt2kit.errors import GenerationError
from gpt2kit.generation.options import merge, resolve
from gpt2kit.generation.processors import bans, penalties, warpers
from gpt2kit.generation.processors import chain as ours

F = np.float32


def test_filters_keep_the_first_and_leave_their_argument_alone():
    rng = np.random.default_rng(6)
    for _ in range(100):
        scores = np.round(rng.normal(0, 3, rng.choice([1, 2, 50]))).astype(F)
        scores[1:][rng.random(len(scores) - 1) < 0.2] = -np.inf
        before = scores.copy()
        for mine, option in [
            (warpers.keep_top_k, 1),
            (warpers.keep_top_p, 0.0),
            (warpers.keep_min_p, 1.0),
            (warpers.cut_epsilon, 0.9999),
            (warpers.cut_eta, 0.9999),
            (warpers.keep_top_h, 1e-9),
        ]:
            result = mine(scores, option)
            assert result[np.argmax(scores)] == scores.max()
        assert np.isfinite(warpers.keep_typical(scores, 1e-9)).any()
        np.testing.assert_array_equal(scores, before)


def test_custom_processors_come_before_temperature_and_after_the_bans():
    model = GPT2Config(vocab_size=4, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    seen = []

    def spy(token_ids, scores):
        seen.append((list(token_ids), scores.copy()))
        return scores

    resolved = resolve(merge({"do_sample": True, "temperature": 2.0, "bad_words_ids": [[1]]}), model, [1])
    chain = ours.build_processors(resolved, 0, [3], ours.Custom((spy,)))
    result = ours.process(chain, [3], np.array([2, 2, 2, 4], dtype=F))
    assert seen[0][0] == [3]
    np.testing.assert_array_equal(seen[0][1], [2, -np.inf, 2, 4])
    np.testing.assert_array_equal(result, [1, -np.inf, 1, 2])


@pytest.mark.parametrize("bad", [lambda i, s: s[:2], lambda i, s: None, lambda i, s: s.astype(int)])
def test_a_custom_processor_must_return_scores(bad):
    with pytest.raises(GenerationError, match="must return floating point scores of shape"):
        ours.checked_custom(bad)([0], np.zeros(4, dtype=F))


def test_a_custom_processor_cannot_spoil_the_engine_s_logits():
    scores = np.ones(3, dtype=F)

    def spoil(token_ids, scores):
        scores[:] = 0
        return scores

    ours.checked_custom(spoil)([0], scores)
    np.testing.assert_array_equal(scores, 1)


def test_banning_everything_is_one_clear_error():
    resolved = resolve(
        merge({"do_sample": True, "top_p": 0.5, "bad_words_ids": [[0], [1]]}),
        GPT2Config(vocab_size=2, n_positions=16, n_embd=8, n_layer=1, n_head=1, eos_token_id=None),
        [1],
    )
    with pytest.raises(GenerationError, match="no token is left to choose"):
        ours.process(ours.build_processors(resolved, 0, [0]), [0], np.zeros(2, dtype=F))


def test_switched_off_options_build_no_processors():
    neutral = GenerationConfig(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0)
    model = GPT2Config(vocab_size=4, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    chain = ours.build_processors(resolve(neutral, model, [1]), 0, [0])
    scores = np.array([2, 1, 0, -5], dtype=F)
    np.testing.assert_array_equal(ours.process(chain, [0], scores), scores)
    assert len(chain) == 1  # the check that there is a choice


def test_a_decay_beyond_float32_stays_finite_and_spares_banned_tokens():
    scores = np.array([1.0, -np.inf, -2.0, 0.0, np.finfo(F).min], dtype=F)
    grown = penalties.decay_length(scores, [0, 1, 3, 4], 10.0, 400)
    np.testing.assert_array_equal(grown, [np.finfo(F).max, -np.inf, -2.0, 0.0, np.finfo(F).min])


@pytest.mark.parametrize(
    ("allowed", "message"), [([], "empty list"), ([5], "ids 0 to 3"), ([-1], "ids 0 to 3")]
)
def test_allowing_nothing_or_nonsense_is_refused(allowed, message):
    with pytest.raises(GenerationError, match=message):
        bans.allow_tokens(np.zeros(4, dtype=F), allowed)
