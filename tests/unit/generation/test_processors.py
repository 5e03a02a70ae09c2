"""Processors against Transformers' on random inputs: the same scores, the same -inf masks, the same order."""

import warnings

import numpy as np
import pytest

from gpt2kit.config import GenerationConfig, GPT2Config
from gpt2kit.errors import GenerationError
from gpt2kit.generation import bans, penalties, warpers
from gpt2kit.generation import processors as ours
from gpt2kit.generation.options import merge, resolve

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers.generation.logits_process")

F = np.float32
SHAPES = [1, 2, 7, 50, 997]


def random_case(rng, vocab_size=None):
    """Scores with ties and -inf, and the ids of a sequence."""
    vocab_size = vocab_size or int(rng.choice(SHAPES))
    scores = rng.normal(0, rng.choice([0.1, 2.0, 8.0]), vocab_size).astype(F)
    if rng.random() < 0.5:
        scores = np.round(scores).astype(F)  # many ties
    scores[rng.random(vocab_size) < 0.2] = -np.inf
    scores[rng.integers(vocab_size)] = F(1.5)
    ids = rng.integers(0, min(vocab_size, 12), rng.integers(1, 30)).tolist()
    return ids, scores


def run_hf(processor, ids, scores, dtype=torch.float32):
    result = processor(torch.tensor([ids]), torch.tensor(scores, dtype=dtype)[None])
    return result[0].to(torch.float32).numpy()


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (lambda i, s, o: penalties.penalize_repetition(i, s, o), hf.RepetitionPenaltyLogitsProcessor),
        (lambda i, s, o: warpers.scale_temperature(s, o), hf.TemperatureLogitsWarper),
    ],
    ids=["repetition_penalty", "temperature"],
)
@pytest.mark.parametrize("option", [0.3, 0.7, 1.3, 5.0])
def test_arithmetic_on_scores_is_bit_for_bit_transformers(mine, theirs, option):
    rng = np.random.default_rng(int(option * 10))
    for _ in range(60):
        ids, scores = random_case(rng)
        np.testing.assert_array_equal(mine(ids, scores, option), run_hf(theirs(option), ids, scores))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_no_repeat_ngram_is_transformers(size):
    rng = np.random.default_rng(size)
    for _ in range(100):
        ids, scores = random_case(rng)
        ids = [i % 3 for i in ids] if len(scores) >= 3 else ids
        expected = run_hf(hf.NoRepeatNGramLogitsProcessor(size), ids, scores)
        np.testing.assert_array_equal(bans.ban_repeated_ngrams(ids, scores, size), expected)


def test_bad_words_are_transformers():
    rng = np.random.default_rng(1)
    for _ in range(100):
        ids, scores = random_case(rng, 50)
        words = [rng.integers(0, 12, rng.integers(1, 4)).tolist() for _ in range(8)] + [[*ids[-1:], 3]]
        expected = run_hf(hf.NoBadWordsLogitsProcessor(words, eos_token_id=4), ids, scores)
        kept = [word for word in words if word != [4]]
        np.testing.assert_array_equal(bans.ban_words(ids, scores, kept), expected)


def assert_masks_agree(mine, theirs, ids, scores):
    """Compare with Transformers run in float64: in float32 its own rounding decides some borders."""
    exact = run_hf(theirs, ids, scores, torch.float64)
    np.testing.assert_array_equal(mine, exact)


@pytest.mark.parametrize("top_k", [1, 2, 5, 50, 10000])
def test_top_k_is_transformers(top_k):
    rng = np.random.default_rng(top_k)
    for _ in range(60):
        ids, scores = random_case(rng)
        expected = run_hf(hf.TopKLogitsWarper(top_k), ids, scores)
        np.testing.assert_array_equal(warpers.keep_top_k(scores, top_k), expected)


@pytest.mark.parametrize(
    ("mine", "theirs", "options"),
    [
        (warpers.keep_min_p, hf.MinPLogitsWarper, [0.01, 0.2, 0.77]),
        (warpers.keep_typical, hf.TypicalLogitsWarper, [0.05, 0.2, 0.5, 0.95]),
        (warpers.cut_epsilon, hf.EpsilonLogitsWarper, [3e-4, 0.01, 0.3]),
        (warpers.cut_eta, hf.EtaLogitsWarper, [3e-4, 0.01, 0.3]),
    ],
    ids=["min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"],
)
def test_filters_are_transformers(mine, theirs, options):
    rng = np.random.default_rng(3)
    for option in options:
        for _ in range(60):
            ids, scores = random_case(rng)
            result = mine(scores, option)
            assert result.dtype == F
            assert_masks_agree(result, theirs(option), ids, scores)


@pytest.mark.parametrize("top_p", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_top_p_is_transformers_without_ties(top_p):
    rng = np.random.default_rng(5)
    for _ in range(60):
        vocab_size = int(rng.choice(SHAPES))
        scores = rng.normal(0, 3, vocab_size).astype(F)
        assert_masks_agree(warpers.keep_top_p(scores, top_p), hf.TopPLogitsWarper(top_p), [0], scores)


def test_top_p_keeps_the_lower_ids_of_a_tie():
    scores = np.zeros(10, dtype=F)
    kept = np.flatnonzero(warpers.keep_top_p(scores, 0.5) == 0)
    assert kept.tolist() == [0, 1, 2, 3, 4]


def test_filters_keep_the_first_and_leave_their_argument_alone():
    rng = np.random.default_rng(6)
    for _ in range(100):
        _, scores = random_case(rng)
        before = scores.copy()
        for mine, option in [
            (warpers.keep_top_k, 1),
            (warpers.keep_top_p, 0.0),
            (warpers.keep_min_p, 1.0),
            (warpers.cut_epsilon, 0.9999),
            (warpers.cut_eta, 0.9999),
        ]:
            result = mine(scores, option)
            assert result[np.argmax(scores)] == scores.max()
        assert np.isfinite(warpers.keep_typical(scores, 1e-9)).any()
        np.testing.assert_array_equal(scores, before)


def random_options(rng):
    options = {
        "do_sample": bool(rng.random() < 0.8),
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": int(rng.integers(1, 4)),
        "bad_words_ids": [[3], [1, 2], [5, 6, 7]],
        "min_new_tokens": int(rng.integers(1, 40)),
        "min_length": int(rng.integers(1, 40)),
        "temperature": float(rng.uniform(0.3, 2)),
        "top_k": int(rng.integers(1, 60)),
        "top_p": float(rng.uniform(0.1, 0.99)),
        "min_p": float(rng.uniform(0.001, 0.2)),
        "typical_p": float(rng.uniform(0.1, 0.99)),
        "epsilon_cutoff": float(rng.uniform(1e-4, 0.05)),
        "eta_cutoff": float(rng.uniform(1e-4, 0.05)),
    }
    dropped = [name for name in options if name != "do_sample" and rng.random() < 0.5]
    return {name: value for name, value in options.items() if name not in dropped}


def test_the_whole_chain_has_transformers_order():
    rng = np.random.default_rng(8)
    model = GPT2Config(vocab_size=200, n_positions=512, n_embd=8, n_layer=1, n_head=1)
    oracle = TinyGenerationMixin()
    for _ in range(150):
        options = random_options(rng)
        prompt_length = int(rng.integers(1, 20))
        ids = rng.integers(0, 30, prompt_length + rng.integers(0, 20)).tolist()
        scores = rng.normal(0, 4, 200).astype(F)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            merged = merge({**options, "eos_token_id": [7, 9]})
        resolved = resolve(merged, model, [prompt_length])
        mine = ours.process(ours.build_processors(resolved, 0, ids[:prompt_length]), ids, scores)
        expected = oracle.process(options, prompt_length, ids, scores)
        np.testing.assert_array_equal(np.isneginf(mine), np.isneginf(expected))
        # Scores that are kept went through the same two float32 operations; float64 then rounds once more.
        np.testing.assert_allclose(mine, expected, rtol=3e-7)


class TinyGenerationMixin:
    """Transformers' own assembly of the processors, without a model."""

    def process(self, options, prompt_length, ids, scores):
        from transformers import GenerationConfig as HFConfig
        from transformers.generation.utils import GenerationMixin

        class Model(GenerationMixin):
            config = type("Config", (), {"is_encoder_decoder": False})()

        config = HFConfig(**options)
        # Transformers lets min_new_tokens override min_length before it builds the list.
        if config.min_new_tokens is not None:
            config.min_length = prompt_length + config.min_new_tokens
        config.update(**HFConfig._get_default_generation_params(), defaults_only=True)
        config._eos_token_tensor = torch.tensor([7, 9])
        chain = Model()._get_logits_processor(config, input_ids_seq_length=prompt_length, device="cpu")
        return run_hf(chain, ids, scores, torch.float64)


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
