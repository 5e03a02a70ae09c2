"""Greedy generations with every processor against Transformers' generate(): the same ids."""

from __future__ import annotations

import random
import warnings
from typing import Any

import pytest

from gpt2kit.engine import NativeEngine
from gpt2kit.errors import GenerationError
from gpt2kit.generation import generate
from processor_options import VOCAB_SIZE, random_processor_options
from random_models import random_model

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    "seed", [*range(12), *(pytest.param(s, marks=pytest.mark.slow) for s in range(12, 150))]
)
def test_greedy_ids_are_transformers_with_every_processor(seed: int) -> None:
    torch.set_num_threads(1)
    oracle, config, weights = random_model(
        seed, n_positions=80, vocab_size=VOCAB_SIZE, bos_token_id=59, eos_token_id=59
    )
    engine = NativeEngine(config, weights, threads=1)
    rng = random.Random(seed)
    for _ in range(10):
        options = random_processor_options(rng)
        prompt = [rng.randrange(VOCAB_SIZE) for _ in range(rng.choice([1, 2, 9, 30]))]
        extra: dict[str, Any] = {}
        if "guidance_scale" in options and rng.random() < 0.6:
            extra["negative_prompt_ids"] = [[rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 9))]]
        if rng.random() < 0.2:
            extra["prefix_allowed_tokens_fn"] = lambda batch, ids: range(int(ids[-1]) % 9, VOCAB_SIZE, 2)
        theirs = dict(extra)
        if "negative_prompt_ids" in theirs:
            theirs["negative_prompt_ids"] = torch.tensor(theirs["negative_prompt_ids"])
        if "prefix_allowed_tokens_fn" in theirs:
            theirs["prefix_allowed_tokens_fn"] = lambda batch, ids: list(
                range(int(ids[-1]) % 9, VOCAB_SIZE, 2)
            )
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
