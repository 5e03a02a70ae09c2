"""Detectors against Transformers' on the same ids, and watermarks that are found where they are."""

from __future__ import annotations

import numpy as np
import pytest

from fakes import FakeEngine
from gpt2kit.config import GPT2Config, SynthIDTextWatermarkingConfig, WatermarkingConfig
from gpt2kit.errors import GenerationError
from gpt2kit.generation import generate
from gpt2kit.generation.watermark_detector import SynthIDTextScorer, WatermarkDetector

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

KEYS = [654, 400, 836, 123, 340, 443, 597, 160, 57]
MODEL = GPT2Config(vocab_size=60, n_positions=64, n_embd=8, n_layer=1, n_head=1, bos_token_id=59)


@pytest.mark.parametrize("scheme", ["lefthash", "selfhash"])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_counts_z_scores_and_p_values_are_those_of_transformers(scheme, width):
    rng = np.random.default_rng(width)
    config = {"seeding_scheme": scheme, "context_width": width, "greenlist_ratio": 0.3}
    theirs_config = hf.GPT2Config(vocab_size=60, bos_token_id=59)
    for ignore in (False, True):
        mine = WatermarkDetector(MODEL, "cpu", config, ignore_repeated_ngrams=ignore)
        theirs = hf.WatermarkDetector(theirs_config, "cpu", dict(config), ignore_repeated_ngrams=ignore)
        for has_bos in (False, True):
            ids = rng.integers(0, 8, (4, 40))
            ids[:, 0] = 59 if has_bos else 1
            found = mine(torch.tensor(ids), return_dict=True)
            expected = theirs(torch.tensor(ids), return_dict=True)
            for name, value in vars(found).items():
                np.testing.assert_allclose(value, getattr(expected, name), rtol=1e-12, err_msg=name)
            np.testing.assert_array_equal(
                mine(ids.tolist(), z_threshold=0.5), theirs(torch.tensor(ids), z_threshold=0.5)
            )


def generated(engine, **options):
    rows = generate(
        engine,
        [[1, 2], [3]],
        max_new_tokens=50,
        eos_token_id=[],
        do_sample=True,
        top_k=0,
        seed=3,
        temperature=2.0,
        **options,
    )
    return [row.ids for row in rows]


@pytest.mark.parametrize("scheme", ["lefthash", "selfhash"])
def test_a_watermark_is_found_where_it_is(scheme):
    engine = FakeEngine()
    config = WatermarkingConfig(bias=8.0, seeding_scheme=scheme)
    detector = WatermarkDetector(engine.config, "cpu", config)
    assert detector(generated(engine, watermarking_config=config)).all()
    assert not detector(generated(engine)).any()


def test_the_tournament_is_found_where_it_was_played():
    engine = FakeEngine()
    config = SynthIDTextWatermarkingConfig(ngram_len=3, keys=KEYS)
    for weighted in (False, True):
        scorer = SynthIDTextScorer(config, weighted=weighted)
        marked, plain = scorer(generated(engine, watermarking_config=config)), scorer(generated(engine))
        assert (marked > 0.56).all() and (np.abs(plain - 0.5) < 0.06).all()


def test_what_follows_the_end_or_repeats_a_context_is_not_scored():
    config = SynthIDTextWatermarkingConfig(ngram_len=3, keys=KEYS)
    text = [5, 6, 7, 8, 9]
    score = SynthIDTextScorer(config, eos_token_id=2)([text])
    assert score == SynthIDTextScorer(config, eos_token_id=2)([[*text, 2, 3, 3]])
    repeated = SynthIDTextScorer(config)([[5, 6, 7, 5, 6, 7]])  # the context (5, 6) comes twice
    assert repeated == SynthIDTextScorer(config)([[5, 6, 7, 5, 6]])
    assert np.isnan(SynthIDTextScorer(config, eos_token_id=5)([text]))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[59, 1, 2], [1, 2, 3]], "some texts start with the BOS token"),
        ([[1]], "texts of 1 tokens are too short"),
        ([1, 2, 3], r"shape \(batch, tokens\)"),
        ([[0.5, 1.0]], r"shape \(batch, tokens\)"),
        ([[]], r"shape \(batch, tokens\)"),
    ],
)
def test_texts_that_cannot_be_judged_are_refused(ids, message):
    with pytest.raises(GenerationError, match=message):
        WatermarkDetector(MODEL, "cpu", WatermarkingConfig())(ids)


def test_the_settings_must_be_of_the_watermark_that_is_looked_for():
    with pytest.raises(GenerationError, match="must be a WatermarkingConfig"):
        WatermarkDetector(MODEL, "cpu", SynthIDTextWatermarkingConfig(ngram_len=5, keys=KEYS))
    with pytest.raises(GenerationError, match="must be a SynthIDTextWatermarkingConfig"):
        SynthIDTextScorer(WatermarkingConfig())
    with pytest.raises(GenerationError, match="texts of 4 tokens are too short: ngram_len is 5"):
        SynthIDTextScorer({"ngram_len": 5, "keys": KEYS})([[1, 2, 3, 4]])
