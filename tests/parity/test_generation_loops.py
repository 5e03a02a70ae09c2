"""The loop in C++ against the loop in Python: the same ids for the same seeds, whatever the options."""

from __future__ import annotations

import random
from typing import Any

import pytest

from gpt2kit import _native
from gpt2kit.engine import NativeEngine
from gpt2kit.generation import generate
from gpt2kit.generation.random import coin
from random_models import random_model


class PythonOnly:
    """An engine without a loop of its own."""

    def __init__(self, engine: NativeEngine) -> None:
        self.config = engine.config
        self.new_sequence = engine.new_sequence
        self.forward = engine.forward


def random_generation(rng: random.Random, vocab_size: int) -> dict[str, Any]:
    options: dict[str, Any] = {"do_sample": rng.random() < 0.8}
    maybe = lambda name, value, p=0.4: options.update({name: value}) if rng.random() < p else None  # noqa: E731
    maybe("repetition_penalty", rng.choice([0.8, 1.2, 2.0]))
    maybe("no_repeat_ngram_size", rng.randint(1, 4))
    maybe("min_new_tokens", rng.randint(1, 8))
    maybe("eos_token_id", [rng.randrange(vocab_size) for _ in range(rng.randint(1, 3))])
    maybe("bad_words_ids", [[rng.randrange(vocab_size) for _ in range(rng.randint(1, 3))] for _ in range(3)])
    maybe("num_return_sequences", rng.randint(1, 3) if options["do_sample"] else 1)
    if options["do_sample"]:
        maybe("temperature", rng.choice([0.3, 0.7, 1.5]))
        maybe("top_k", rng.choice([0, 1, 5, 1000]), 0.7)
        maybe("top_p", rng.choice([0.1, 0.5, 0.9, 0.99]))
        maybe("min_p", rng.choice([0.01, 0.1, 0.5]))
        maybe("typical_p", rng.choice([0.2, 0.9]))
        maybe("epsilon_cutoff", rng.choice([1e-3, 0.05]))
        maybe("eta_cutoff", rng.choice([1e-3, 0.05]))
    return options


@pytest.mark.parametrize("seed", range(60))
def test_both_loops_choose_the_same_ids(seed: int) -> None:
    rng = random.Random(seed)
    _, config, weights = random_model(seed % 12, n_positions=64, vocab_size=40 + seed)
    engine = NativeEngine(config, weights, threads=2)
    prompts = [
        [rng.randrange(config.vocab_size) for _ in range(rng.randint(1, 20))]
        for _ in range(rng.randint(1, 5))
    ]
    options = random_generation(rng, config.vocab_size)
    seeds = [rng.getrandbits(64) for _ in prompts]

    native = generate(
        engine, prompts, seed=seeds, max_new_tokens=20, max_rows=rng.choice([1, 3, 64]), **options
    )
    python = generate(PythonOnly(engine), prompts, seed=seeds, max_new_tokens=20, **options)
    assert [row.ids for row in native] == [row.ids for row in python], options
    assert [row.finish_reason for row in native] == [row.finish_reason for row in python]

    alone = [
        row.ids
        for i, p in enumerate(prompts)
        for row in generate(engine, [p], seed=seeds[i], max_new_tokens=20, **options)
    ]
    assert alone == [row.ids for row in native]


def test_greedy_equals_transformers() -> None:
    import torch

    torch.set_num_threads(1)
    for seed in range(4):
        oracle, config, weights = random_model(seed, n_positions=80, eos_token_id=None)
        rng = random.Random(seed)
        prompt = [rng.randrange(config.vocab_size) for _ in range(10)]
        inputs = torch.tensor([prompt])
        expected = oracle.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=40, do_sample=False, pad_token_id=0
        )
        engine = NativeEngine(config, weights, threads=2)
        assert engine.generate([prompt], max_new_tokens=40) == [expected[0, 10:].tolist()]


def test_both_coins_are_one() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        arguments = (
            rng.getrandbits(64),
            rng.getrandbits(rng.choice([4, 32])),
            rng.getrandbits(rng.choice([10, 40])),
        )
        assert coin(*arguments) == _native.coin(*arguments)


def test_callback_stops_a_row_and_its_error_is_raised() -> None:
    _, config, weights = random_model(1, n_positions=64, eos_token_id=None)
    engine = NativeEngine(config, weights, threads=2)
    seen: list[int] = []

    def stop_after_three(prompt: int, row: int, token_id: int) -> bool:
        seen.append(token_id)
        return len(seen) == 3

    rows = generate(engine, [[0, 1]], max_new_tokens=20, on_token=stop_after_three)
    assert rows[0].ids == seen and len(seen) == 3

    def fail(prompt: int, row: int, token_id: int) -> bool:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        generate(engine, [[0, 1]], max_new_tokens=20, on_token=fail)
