"""Beam search against Transformers: the same ids, beams and scores over random models and options.

Sampling and what Transformers no longer has (groups, constraints) is tested against definitions in
tests/unit/generation.
"""

import random
import warnings
from functools import cache
from importlib.resources import files

import numpy as np
import pytest
import torch
import transformers

from gpt2kit.engine import NativeEngine, load_engine
from gpt2kit.engine.torch import TorchEngine
from gpt2kit.generation import generate
from gpt2kit.model import GPT2LMHeadModel
from random_models import random_model

VOCAB_SIZE = 60


@pytest.fixture(autouse=True)
def _one_thread():
    """Models this small are slower with more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def oracle_and_engine(seed):
    """A model of Transformers that is wide enough to tell tokens apart, and the same for us."""
    model, config, weights = random_model(
        seed, n_head=2, n_embd=32, n_layer=2, n_positions=40, vocab_size=VOCAB_SIZE, initializer_range=0.3,
        bos_token_id=59, eos_token_id=59,
    )  # fmt: skip
    return model, NativeEngine(config, weights, threads=1)


def random_token_ids(rng, at_least, at_most):
    return [rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(at_least, at_most))]


def random_beam_options(rng):
    num_beams = rng.randint(2, 6)
    always = {
        "num_beams": num_beams,
        "num_return_sequences": rng.randint(1, num_beams),
        "length_penalty": rng.choice([1.0, 0.0, -1.0, 2.0, 0.7]),
        "early_stopping": rng.choice([True, False, "never"]),
        "max_new_tokens": rng.randint(1, 14),
    }
    sometimes = {
        "eos_token_id": rng.sample(range(VOCAB_SIZE), rng.randint(1, 6)),
        "repetition_penalty": rng.choice([1.3, 0.8]),
        "no_repeat_ngram_size": rng.randint(1, 3),
        "bad_words_ids": [random_token_ids(rng, 1, 2) for _ in range(4)],
        "min_new_tokens": rng.randint(1, 6),
        "suppress_tokens": random_token_ids(rng, 1, 9),
        "sequence_bias": [[random_token_ids(rng, 1, 2), rng.uniform(-4, 4)] for _ in range(3)],
        "renormalize_logits": True,
    }
    return always | {name: value for name, value in sometimes.items() if rng.random() < 0.4}


def transformers_rows(model, prompts, options, **others):
    """Return (new ids, beam indices, score) of every row, and the scores of every step (B * num_beams, V)."""
    ids = torch.tensor(prompts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0,
            return_dict_in_generate=True, output_scores=True, **options, **others,
        )  # fmt: skip
    rows = []
    for row, (sequence, score) in enumerate(zip(out.sequences, out.sequences_scores, strict=True)):
        first_beam = row // options["num_return_sequences"] * options["num_beams"]
        beams = [int(beam) - first_beam for beam in out.beam_indices[row] if beam >= 0]
        rows.append((sequence[ids.shape[1] : ids.shape[1] + len(beams)].tolist(), beams, float(score)))
    return rows, [scores.numpy() for scores in out.scores]


def assert_same_rows(ours, expected):
    assert [(row.ids, row.beam_indices) for row in ours] == [(ids, beams) for ids, beams, _ in expected]
    assert [row.score for row in ours] == pytest.approx(
        [score for _, _, score in expected], rel=2e-5, abs=2e-5
    )


def check_options(seed):
    rng = random.Random(seed)
    model, engine = oracle_and_engine(seed % 7)
    options = random_beam_options(rng)
    prompts = [random_token_ids(rng, 1, 20) for _ in range(2)]
    ours = generate(engine, prompts, **options, output_scores=True, return_dict_in_generate=True)
    count = options["num_return_sequences"]
    for index, prompt in enumerate(prompts):
        rows = ours[index * count : (index + 1) * count]
        expected, expected_scores = transformers_rows(model, [prompt], options)
        assert_same_rows(rows, expected)
        for scores, their_scores in zip(rows[0].steps.scores, expected_scores, strict=True):
            np.testing.assert_allclose(scores, their_scores, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("seed", range(64))
def test_rows_beams_and_scores_are_transformers_whatever_the_options(seed):
    check_options(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1600))
def test_rows_beams_and_scores_are_transformers_whatever_the_options_many(seed):
    check_options(seed)


@pytest.mark.parametrize("seed", range(6))
def test_a_batch_of_transformers_gives_the_same_rows(seed):
    rng = random.Random(seed)
    model, engine = oracle_and_engine(seed)
    options = random_beam_options(rng) | {"eos_token_id": rng.sample(range(VOCAB_SIZE), 6)}
    prompts = [[rng.randrange(VOCAB_SIZE) for _ in range(9)] for _ in range(4)]
    expected, _ = transformers_rows(model, prompts, options)
    assert_same_rows(generate(engine, prompts, **options), expected)


def test_custom_processors_and_criteria_act_alike():
    model, engine = oracle_and_engine(3)
    options = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 10, "eos_token_id": [3]}
    prompts = [[5, 7, 9], [11, 2, 40]]

    class Favour(transformers.LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores = scores.clone()
            scores.scatter_add_(1, (input_ids[:, -1:] + 1) % VOCAB_SIZE, torch.full((len(scores), 1), 3.0))
            return scores

    class Stop(transformers.StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return input_ids[:, -1] % 7 == 0

    def favour(ids, scores):
        scores[(ids[-1] + 1) % VOCAB_SIZE] += np.float32(3.0)
        return scores

    expected, _ = transformers_rows(
        model, prompts, options, logits_processor=transformers.LogitsProcessorList([Favour()]),
        stopping_criteria=transformers.StoppingCriteriaList([Stop()]),
        prefix_allowed_tokens_fn=lambda batch, ids: range(batch, VOCAB_SIZE - int(ids[-1]) % 20),
    )  # fmt: skip
    ours = generate(
        engine, prompts, **options, logits_processor=[favour],
        stopping_criteria=[lambda ids, scores: ids[-1] % 7 == 0],
        prefix_allowed_tokens_fn=lambda prompt, ids: range(prompt, VOCAB_SIZE - ids[-1] % 20),
    )  # fmt: skip
    assert_same_rows(ours, expected)


def test_both_engines_search_alike():
    model, engine = oracle_and_engine(1)
    ours = GPT2LMHeadModel(engine.config).eval()
    ours.load_state_dict(model.state_dict(), strict=False)
    options = {"num_beams": 5, "num_return_sequences": 3, "max_new_tokens": 9, "eos_token_id": [3, 5, 8]}
    prompts = [[5, 7, 9], [11], [2] * 12]
    native, torch_rows = (generate(e, prompts, **options) for e in (engine, TorchEngine(ours)))
    assert_same_rows(native, [(row.ids, row.beam_indices, row.score) for row in torch_rows])


def test_stop_strings_and_text_of_a_trained_model():
    folder = str(files("gpt2kit") / "builtin")
    model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.GPT2Tokenizer.from_pretrained(folder)
    engine = load_engine(folder)
    for prompt, stops in [("The king said", [",", " the"]), ("Once upon a time", ["man", "e."])]:
        options = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 12, "stop_strings": stops}
        ids = tokenizer(prompt)["input_ids"]
        expected, _ = transformers_rows(model, [ids], options, tokenizer=tokenizer)
        ours = generate(
            engine,
            [ids],
            model_config=engine.generation_config,
            do_sample=False,
            tokenizer=tokenizer,
            **options,
        )
        assert_same_rows(ours, expected)
