"""Every logits processor against Transformers' class over random scores and ids: ties, -inf, extremes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from gpt2kit.config import GPT2Config, SynthIDTextWatermarkingConfig, WatermarkingConfig
from gpt2kit.generation.options import merge, resolve
from gpt2kit.generation.processors import bans, penalties, synthid, warpers, watermark
from gpt2kit.generation.processors import chain as ours

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers.generation.logits_process")

F = np.float32
LEAST = np.finfo(F).min


def random_scores(rng, vocab_size):
    """Scores with ties, -inf and sometimes extremes; one is finite at least."""
    kind = rng.integers(4)
    scores = rng.normal(0, rng.choice([0.1, 2.0, 8.0]), vocab_size).astype(F)
    if kind == 1:
        scores = np.round(scores).astype(F)
    if kind == 2:
        scores = (scores * F(rng.choice([1e-30, 1e4, 1e30]))).astype(F)
    if kind == 3:
        scores[:] = F(rng.normal())
    scores[rng.random(vocab_size) < rng.choice([0.0, 0.3])] = -np.inf
    scores[rng.integers(vocab_size)] = F(rng.normal())
    return scores


def random_case(rng, vocab_size=None):
    vocab_size = vocab_size or int(rng.choice([1, 2, 7, 50, 311]))
    ids = rng.integers(0, min(vocab_size, 9), rng.integers(1, 30)).tolist()
    return ids, random_scores(rng, vocab_size)


def run(processor, ids, scores, dtype=torch.float32):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = processor(torch.tensor([ids]), torch.tensor(scores, dtype=dtype)[None])
    return result[0].numpy()


def random_ids(rng, vocab_size, low=1, high=5):
    return [int(i) for i in rng.integers(0, vocab_size, rng.integers(low, high))]


# Each case makes (our scores, Transformers' scores) of a random input; these agree to the bit.
def repetition_penalty(rng, ids, scores):
    penalty = float(rng.choice([0.3, 1.2, 5.0]))
    return penalties.penalize_repetition(ids, scores, penalty), hf.RepetitionPenaltyLogitsProcessor(penalty)


def encoder_repetition_penalty(rng, ids, scores):
    penalty, prompt = float(rng.choice([0.3, 1.2, 5.0])), ids[: rng.integers(1, len(ids) + 1)]
    theirs = hf.EncoderRepetitionPenaltyLogitsProcessor(penalty, torch.tensor([prompt]))
    return penalties.favor_prompt(prompt, scores, penalty), theirs


def sequence_bias(rng, ids, scores):
    def sequence():
        is_likely = rng.random() < 0.6 and len(ids) > 2
        tail = ids[len(ids) - int(rng.integers(0, 3)) :] if is_likely else random_ids(rng, len(scores), 0, 4)
        return (*tail, int(rng.integers(len(scores))))

    biases = {sequence(): float(rng.choice([-np.inf, -3.7, 0.1, 9.0])) for _ in range(rng.integers(1, 9))}
    theirs = hf.SequenceBiasLogitsProcessor(dict(biases))
    return penalties.bias_sequences(ids, scores, tuple(biases.items())), theirs


def no_repeat_ngram(rng, ids, scores):
    size = int(rng.integers(1, 5))
    return bans.ban_repeated_ngrams(ids, scores, size), hf.NoRepeatNGramLogitsProcessor(size)


def encoder_no_repeat_ngram(rng, ids, scores):
    size, prompt = int(rng.integers(1, 5)), ids[: rng.integers(1, len(ids) + 1)]
    theirs = hf.EncoderNoRepeatNGramLogitsProcessor(size, torch.tensor([prompt]))
    return bans.ban_ngrams_of(prompt, ids, scores, size), theirs


def bad_words(rng, ids, scores):
    words = [random_ids(rng, min(len(scores), 9), 1, 4) for _ in range(8)]
    return bans.ban_words(ids, scores, words), hf.NoBadWordsLogitsProcessor(words)


def min_length(rng, ids, scores):
    eos, least = random_ids(rng, len(scores)), int(rng.integers(0, 30))
    mine = bans.ban_tokens(scores, eos) if len(ids) < least else scores
    return mine, hf.MinLengthLogitsProcessor(least, eos)


def prefix_allowed(rng, ids, scores):
    allowed = random_ids(rng, len(scores))
    theirs = hf.PrefixConstrainedLogitsProcessor(lambda batch, sent: allowed, 1)
    return bans.allow_tokens(scores, allowed), theirs


def forced_bos(rng, ids, scores):
    del ids[1:]
    bos = int(rng.integers(len(scores)))
    return bans.force_tokens(scores, [bos]), hf.ForcedBOSTokenLogitsProcessor(bos)


def forced_eos(rng, ids, scores):
    eos = random_ids(rng, len(scores))
    return bans.force_tokens(scores, eos), hf.ForcedEOSTokenLogitsProcessor(len(ids) + 1, eos)


def remove_invalid_values(rng, ids, scores):
    scores[rng.random(len(scores)) < 0.2] = np.nan
    scores[rng.random(len(scores)) < 0.2] = np.inf
    return penalties.make_finite(scores), hf.InfNanRemoveLogitsProcessor()


def exponential_decay(rng, ids, scores):
    eos, factor = random_ids(rng, len(scores)), float(rng.choice([0.5, 1.01, 1.7]))
    num_past = int(rng.integers(1, len(ids) + 1))
    theirs = hf.ExponentialDecayLengthPenalty((0, factor), eos, len(ids) - num_past)
    return penalties.decay_length(scores, eos, factor, num_past), theirs


def suppress_tokens(rng, ids, scores):
    tokens = random_ids(rng, len(scores) + 3)
    return bans.ban_tokens(scores, tokens), hf.SuppressTokensLogitsProcessor(tokens)


def temperature(rng, ids, scores):
    value = float(rng.choice([0.01, 0.7, 1.3, 100.0]))
    return warpers.scale_temperature(scores, value), hf.TemperatureLogitsWarper(value)


def top_k(rng, ids, scores):
    value, least = int(rng.choice([1, 2, 5, 50, 10000])), int(rng.integers(1, 5))
    theirs = hf.TopKLogitsWarper(value, min_tokens_to_keep=least)
    return warpers.keep_top_k(scores, value, least), theirs


EXACT = [
    repetition_penalty, encoder_repetition_penalty, sequence_bias, no_repeat_ngram, encoder_no_repeat_ngram,
    bad_words, min_length, prefix_allowed, forced_bos, forced_eos, remove_invalid_values, exponential_decay,
    suppress_tokens, temperature, top_k,
]  # fmt: skip


@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.__name__)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_scores_are_bit_for_bit_transformers(case, seed):
    rng = np.random.default_rng([seed, len(case.__name__)])
    for _ in range(150 if seed == 0 else 3000):
        ids, scores = random_case(rng)
        with np.errstate(all="ignore"):
            mine, theirs = case(rng, ids, scores)
        assert mine.dtype == F
        np.testing.assert_array_equal(mine, run(theirs, ids, scores))


# Borders of probability are compared with Transformers in float64: in float32 its own rounding decides some.
def top_h(rng, least):
    value = float(rng.choice([0.05, 0.3, 0.6, 0.95]))
    return lambda scores: warpers.keep_top_h(scores, value), hf.TopHLogitsWarper(value)


def top_p(rng, least):
    value = float(rng.choice([0.0, 0.1, 0.5, 0.9, 0.999]))
    theirs = hf.TopPLogitsWarper(value, min_tokens_to_keep=least)
    return lambda scores: warpers.keep_top_p(scores, value, least), theirs


def min_p(rng, least):
    value = float(rng.choice([0.01, 0.2, 0.77]))
    theirs = hf.MinPLogitsWarper(value, min_tokens_to_keep=least)
    return lambda scores: warpers.keep_min_p(scores, value, least), theirs


def typical_p(rng, least):
    value = float(rng.choice([0.05, 0.2, 0.5, 0.95]))
    theirs = hf.TypicalLogitsWarper(value, min_tokens_to_keep=least)
    return lambda scores: warpers.keep_typical(scores, value, least), theirs


def epsilon_cutoff(rng, least):
    value = float(rng.choice([3e-4, 0.01, 0.3]))
    theirs = hf.EpsilonLogitsWarper(value, min_tokens_to_keep=least)
    return lambda scores: warpers.cut_epsilon(scores, value, least), theirs


def eta_cutoff(rng, least):
    value = float(rng.choice([3e-4, 0.01, 0.3]))
    theirs = hf.EtaLogitsWarper(value, min_tokens_to_keep=least)
    return lambda scores: warpers.cut_eta(scores, value, least), theirs


@pytest.mark.parametrize("case", [top_h, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_is_removed_is_what_transformers_removes(case, seed):
    rng = np.random.default_rng([seed, len(case.__name__)])
    for _ in range(150 if seed == 0 else 3000):
        vocab_size = int(rng.choice([1, 2, 7, 50, 311]))
        # Without ties: torch orders equal scores as it likes.
        scores = rng.permutation(np.linspace(-9, 9, vocab_size)).astype(F) * F(rng.choice([0.1, 1, 4]))
        scores += rng.normal(0, 1e-3, vocab_size).astype(F)
        scores[rng.random(vocab_size) < rng.choice([0.0, 0.3])] = -np.inf
        scores[rng.integers(vocab_size)] = F(9.7)
        mine, theirs = case(rng, int(rng.integers(1, 4)))
        np.testing.assert_array_equal(mine(scores), run(theirs, [0], scores, torch.float64).astype(F))


@pytest.mark.parametrize("case", [top_h, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff])
def test_of_equal_scores_the_lowest_ids_stay(case):
    rng = np.random.default_rng(5)
    for _ in range(100):
        vocab_size = int(rng.choice([2, 7, 50]))
        scores = rng.integers(0, 3, vocab_size).astype(F)
        mine, theirs = case(rng, 1)
        kept, expected = mine(scores), run(theirs, [0], scores, torch.float64).astype(F)
        for value in np.unique(scores):
            same = np.flatnonzero(scores == value)
            stays = np.flatnonzero(kept[same] == value)
            assert stays.tolist() == list(range(len(stays)))
            assert abs(len(stays) - np.count_nonzero(expected[same] == value)) <= (1 if case is top_p else 0)


def test_top_h_of_one_keeps_the_first_hundred():
    scores = np.arange(300, 0, -1).astype(F) / 50
    assert np.flatnonzero(np.isfinite(warpers.keep_top_h(scores, 1.0))).tolist() == list(range(100))


def test_normalized_scores_are_log_softmax():
    rng = np.random.default_rng(6)
    for _ in range(200):
        ids, scores = random_case(rng)
        expected = run(hf.LogitNormalization(), ids, scores, torch.float64)
        np.testing.assert_allclose(penalties.normalize(scores), expected.astype(F), rtol=1e-6, atol=1e-6)


def test_guidance_mixes_as_transformers_does():
    rng = np.random.default_rng(7)
    for _ in range(100):
        scores, free = rng.normal(0, 4, (2, 60)).astype(F)
        scale = float(rng.choice([-1.0, 0.0, 0.5, 1.5, 4.0]))

        class Model:
            def __call__(self, *args, free=free, **kwargs):
                return type("Out", (dict,), {"logits": torch.tensor(free, dtype=torch.float64)[None, None]})()

        theirs = hf.UnbatchedClassifierFreeGuidanceLogitsProcessor(scale, Model())
        expected = run(theirs, [1], scores, torch.float64).astype(F)
        np.testing.assert_allclose(
            penalties.mix_guidance(scores, free, scale), expected, rtol=1e-6, atol=1e-6
        )


def random_watermark(rng):
    return WatermarkingConfig(
        greenlist_ratio=float(rng.choice([0.05, 0.25, 0.5, 0.9])),
        bias=float(rng.choice([0.5, 2.0, -1.3])),
        hashing_key=int(rng.choice([15485863, 35317, 2**61 - 1])),
        seeding_scheme=str(rng.choice(["lefthash", "selfhash"])),
        context_width=int(rng.integers(1, 5)),
    )


def test_green_lists_are_those_of_transformers():
    rng = np.random.default_rng(8)
    for _ in range(12):
        config, vocab_size = random_watermark(rng), int(rng.choice([40, 99, 311]))
        theirs = hf.WatermarkLogitsProcessor(vocab_size, "cpu", **config.to_dict())
        for _ in range(6):
            ids = random_ids(rng, vocab_size, 1, 8)
            # Without ties: torch ranks equal scores as it likes, and "selfhash" looks at the first 40.
            scores = rng.permutation(np.linspace(-5, 5, vocab_size)).astype(F)
            np.testing.assert_array_equal(
                watermark.favor_green(ids, scores, config), run(theirs, ids, scores), err_msg=repr(config)
            )


def test_the_tournament_is_transformers_over_whole_texts():
    rng = np.random.default_rng(9)
    for _ in range(30):
        config = SynthIDTextWatermarkingConfig(
            ngram_len=int(rng.integers(2, 6)),
            keys=[int(k) for k in rng.integers(-(2**62), 2**62, rng.integers(1, 12))],
            context_history_size=int(rng.choice([1, 3, 1024])),
            sampling_table_seed=int(rng.choice([0, 7, 2**40])),
            sampling_table_size=int(rng.choice([1, 97, 65536])),
            skip_first_ngram_calls=bool(rng.random() < 0.5),
            debug_mode=bool(rng.random() < 0.2),
        )
        theirs = hf.SynthIDTextWatermarkLogitsProcessor(**config.to_dict(), device=torch.device("cpu"))
        vocab_size, num_prompt = int(rng.choice([3, 20, 150])), int(rng.integers(1, 6))
        ids = random_ids(rng, vocab_size, num_prompt, num_prompt + 1)
        for _ in range(14):
            scores = rng.normal(0, 3, vocab_size).astype(F)
            mine = synthid.play_tournament(ids[num_prompt:], scores, config)
            expected = run(theirs, ids, scores, torch.float64)
            expected = np.maximum(expected, LEAST)  # log 0 is the least number of the type
            np.testing.assert_allclose(mine, expected.astype(F), rtol=1e-5, atol=1e-5)
            ids.append(int(rng.integers(min(vocab_size, 4))))
        np.testing.assert_array_equal(
            synthid.compute_g_values(ids, config), theirs.compute_g_values(torch.tensor([ids]))[0].numpy()
        )
        np.testing.assert_array_equal(
            synthid.context_is_new(ids, config),
            theirs.compute_context_repetition_mask(torch.tensor([ids]))[0].numpy(),
        )


def random_options(rng, vocab_size):
    def pick(*values):
        return values[rng.integers(len(values))]

    options = {
        "sequence_bias": [[[3], 1.5], [[1, 2], -4.0]],
        "encoder_repetition_penalty": pick(0.8, 1.4),
        "repetition_penalty": pick(0.8, 1.3),
        "no_repeat_ngram_size": pick(1, 2, 3),
        "encoder_no_repeat_ngram_size": pick(1, 2, 3),
        "bad_words_ids": [[3], [1, 2], [5, 6, 7]],
        "min_new_tokens": pick(1, 5, 40),
        "min_length": pick(1, 9, 40),
        "forced_bos_token_id": 5,
        "forced_eos_token_id": pick(8, [8, 11]),
        "remove_invalid_values": True,
        "exponential_decay_length_penalty": pick((0, 1.02), (3, 1.1)),
        "suppress_tokens": [20, 21, 22],
        "begin_suppress_tokens": [23, 24],
        "watermarking_config": pick({"bias": 1.0}, {"seeding_scheme": "selfhash", "context_width": 2}),
        "renormalize_logits": True,
        "temperature": pick(0.5, 1.7),
        "top_h": pick(0.5, 0.9),
        "top_k": pick(5, 60),
        "top_p": pick(0.5, 0.95),
        "min_p": pick(0.01, 0.1),
        "typical_p": pick(0.5, 0.9),
        "epsilon_cutoff": pick(1e-3, 0.02),
        "eta_cutoff": pick(1e-3, 0.02),
    }
    options = {name: value for name, value in options.items() if rng.random() < 0.35}
    if "exponential_decay_length_penalty" in options:  # makes a banned end token infinite in Transformers
        options.pop("remove_invalid_values", None)
    return {**options, "do_sample": bool(rng.random() < 0.7), "eos_token_id": [7, 9], "max_new_tokens": 24}


def transformers_chain(options, prompt, num_beams, allowed):
    from transformers import GenerationConfig
    from transformers.generation.utils import GenerationMixin

    model_config = type("Config", (), {"is_encoder_decoder": False, "vocab_size": 200})()
    model_config.get_text_config = lambda: model_config
    model = type("Model", (GenerationMixin,), {"config": model_config})()
    config = GenerationConfig(**options, num_beams=num_beams)
    # What generate() does before it builds the list.
    config.max_length = len(prompt) + config.max_new_tokens
    if config.min_new_tokens is not None:
        config.min_length = len(prompt) + config.min_new_tokens
    config.update(**GenerationConfig._get_default_generation_params(), defaults_only=True)
    config._eos_token_tensor = torch.tensor([7, 9])
    return model._get_logits_processor(
        config,
        input_ids_seq_length=len(prompt),
        encoder_input_ids=torch.tensor([prompt]),
        prefix_allowed_tokens_fn=allowed,
        device="cpu",
    )


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_whole_chain_has_transformers_order(seed):
    rng = np.random.default_rng([seed, 11])
    model = GPT2Config(vocab_size=200, n_positions=512, n_embd=8, n_layer=1, n_head=1)
    num_compared = 0
    for _ in range(300 if seed == 0 else 3000):
        options = random_options(rng, 200)
        prompt = random_ids(rng, 30, 1, 20)
        ids = [*prompt, *random_ids(rng, 30, 0, 24)]
        scores = rng.normal(0, 4, 200).astype(F)
        is_beam = bool(rng.random() < 0.3)
        num_beams, least = (3, 3) if is_beam and options["do_sample"] else (1, 1)
        allowed = (lambda batch, ids: list(range(10, 150))) if rng.random() < 0.3 and least == 1 else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            resolved = resolve(merge(options), model, [len(prompt)])
            theirs = transformers_chain(options, prompt, num_beams, allowed)
        custom = ours.Custom(prefix_allowed_tokens_fn=allowed)
        chain = ours.build_processors(resolved, 0, prompt, custom, min_tokens_to_keep=least)
        mine = ours.process(chain, ids, scores)
        expected = run(theirs, ids, scores, torch.float64)
        if np.isnan(expected).any():  # nothing was left to choose
            continue
        num_compared += 1
        with np.errstate(over="ignore"):
            expected = expected.astype(F)
        np.testing.assert_array_equal(mine > LEAST, expected > LEAST, err_msg=repr(options))
        kept = mine > LEAST
        np.testing.assert_allclose(mine[kept], expected[kept], rtol=2e-6, atol=2e-6, err_msg=repr(options))
    assert num_compared > 200
