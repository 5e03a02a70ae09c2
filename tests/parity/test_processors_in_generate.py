"""Greedy generations with every processor against Transformers' generate(): the same ids."""

from __future__ import annotations

import random
import warnings
from typing import Any

import pytest

from gpt2kit.engine import NativeEngine
from gpt2kit.errors import GenerationError
from gpt2kit.generation import generate
from random_models import random_model

torch = pytest.importorskip("torch")
V = 60


def random_options(rng: random.Random) -> dict[str, Any]:
    def ids(count: int) -> list[int]:
        return [rng.randrange(V) for _ in range(count)]

    choices: dict[str, Any] = {
        "sequence_bias": {tuple(ids(rng.randint(1, 2))): rng.choice([-3.0, 4.0]) for _ in range(8)},
        "encoder_repetition_penalty": rng.choice([0.7, 1.5]),
        "repetition_penalty": rng.choice([0.8, 1.3]),
        "no_repeat_ngram_size": rng.randint(1, 3),
        "encoder_no_repeat_ngram_size": rng.randint(1, 3),
        "bad_words_ids": [ids(rng.randint(1, 2)) for _ in range(5)],
        "min_new_tokens": rng.choice([3, 50]),
        "min_length": rng.choice([5, 12]),
        "forced_bos_token_id": rng.randrange(V),
        "forced_eos_token_id": rng.choice([ids(1), ids(2)]),
        "remove_invalid_values": True,
        "exponential_decay_length_penalty": rng.choice([(0, 1.2), (4, 1.05)]),
        "suppress_tokens": ids(6),
        "begin_suppress_tokens": ids(6),
        "guidance_scale": rng.choice([0.5, 1.5, 3.0]),
        "watermarking_config": rng.choice(
            [{"bias": 2.0}, {"seeding_scheme": "selfhash", "context_width": 2}]
        ),
        "renormalize_logits": True,
    }
    options = {name: value for name, value in choices.items() if rng.random() < 0.3}
    if "exponential_decay_length_penalty" in options:  # makes a banned end token infinite in Transformers
        options.pop("remove_invalid_values", None)
    if set(options.get("forced_eos_token_id", [])) <= set(options.get("suppress_tokens", [])):
        options.pop("suppress_tokens", None)
    if options.get("forced_bos_token_id") in options.get("suppress_tokens", []):
        options.pop("suppress_tokens", None)
    return {**options, "max_new_tokens": rng.randint(1, 15), "eos_token_id": ids(rng.randint(1, 3))}


@pytest.mark.parametrize(
    "seed", [*range(12), *(pytest.param(s, marks=pytest.mark.slow) for s in range(12, 150))]
)
def test_greedy_ids_are_transformers_with_every_processor(seed: int) -> None:
    torch.set_num_threads(1)
    oracle, config, weights = random_model(
        seed, n_positions=80, vocab_size=V, bos_token_id=59, eos_token_id=59
    )
    engine = NativeEngine(config, weights, threads=1)
    rng = random.Random(seed)
    for _ in range(10):
        options = random_options(rng)
        prompt = [rng.randrange(V) for _ in range(rng.choice([1, 2, 9, 30]))]
        extra: dict[str, Any] = {}
        if "guidance_scale" in options and rng.random() < 0.6:
            extra["negative_prompt_ids"] = [[rng.randrange(V) for _ in range(rng.randint(1, 9))]]
        if rng.random() < 0.2:
            extra["prefix_allowed_tokens_fn"] = lambda batch, ids: range(int(ids[-1]) % 9, V, 2)
        theirs = dict(extra)
        if "negative_prompt_ids" in theirs:
            theirs["negative_prompt_ids"] = torch.tensor(theirs["negative_prompt_ids"])
        if "prefix_allowed_tokens_fn" in theirs:
            theirs["prefix_allowed_tokens_fn"] = lambda batch, ids: list(range(int(ids[-1]) % 9, V, 2))
        inputs = torch.tensor([prompt])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = oracle.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                do_sample=False,
                pad_token_id=0,
                **options,
                **theirs,
            )[0, len(prompt) :].tolist()
        try:
            (row,) = generate(engine, [prompt], **options, **extra)
        except GenerationError as error:  # Transformers goes on with id 0 when no token is left
            assert "no token is left to choose" in str(error) and 0 in expected, (options, extra)
            continue
        assert row.ids == expected, (options, extra, prompt)
