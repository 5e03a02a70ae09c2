"""NativeEngine against Transformers at equal weights, and against itself to the bit."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from gpt2kit.engine import NativeEngine
from random_models import random_model, relative_error

# float32 sums of at most a few hundred terms in another order.
TOLERANCE = 2e-5
ISAS = ["reference", "avx2", "avx512"]


def supported(isa: str) -> bool:
    from gpt2kit import _native

    return isa in _native.supported_isas()


def random_ids(rng: random.Random, config, length: int) -> list[int]:
    return [rng.randrange(config.vocab_size) for _ in range(length)]


@pytest.mark.parametrize("seed", range(60))
def test_logits_and_hidden_states_equal_transformers(seed: int) -> None:
    torch.set_num_threads(1)
    oracle, config, weights = random_model(seed)
    rng = random.Random(seed)
    ids = random_ids(rng, config, rng.randint(1, config.n_positions))
    with torch.no_grad():
        expected = oracle(torch.tensor([ids]), output_hidden_states=True)
    engine = NativeEngine(config, weights, threads=rng.randint(1, 3))

    whole = engine.forward([(engine.new_sequence(), ids)], logits="all", hidden=True)[0]
    assert relative_error(whole.logits, expected.logits[0].numpy()) < TOLERANCE
    assert relative_error(whole.hidden, expected.hidden_states[-1][0].numpy()) < TOLERANCE

    cached = engine.new_sequence()
    rows = [engine.forward([(cached, [token])])[0].logits for token in ids]
    assert np.array_equal(np.stack(rows), whole.logits)


@pytest.mark.parametrize("seed", range(30))
def test_batch_chunks_threads_and_instruction_set_change_no_bit(seed: int) -> None:
    _, config, weights = random_model(1000 + seed)
    rng = random.Random(seed)
    prompts = [random_ids(rng, config, rng.randint(1, config.n_positions)) for _ in range(rng.randint(2, 6))]
    reference = NativeEngine(config, weights, threads=1, isa="reference")
    alone = [reference.forward([(reference.new_sequence(), ids)], logits="all")[0].logits for ids in prompts]

    for isa in filter(supported, ISAS):
        engine = NativeEngine(config, weights, threads=rng.randint(1, 4), isa=isa)
        work = []
        for ids in prompts:
            sequence = engine.new_sequence()
            cut = rng.randrange(len(ids))
            if cut:
                engine.forward([(sequence, ids[:cut])], logits=None)
            work.append((sequence, ids[cut:]))
        outputs = engine.forward(work, logits="all")
        for expected, output, (_, rest) in zip(alone, outputs, work, strict=True):
            assert np.array_equal(output.logits, expected[-len(rest) :]), isa


def test_many_rows_take_the_packed_path_and_several_passes() -> None:
    _, config, weights = random_model(7, n_positions=700, n_embd=48, n_head=3, n_inner=100, n_layer=2)
    rng = random.Random(7)
    prompts = [random_ids(rng, config, 690), random_ids(rng, config, 300), random_ids(rng, config, 1)]
    reference = NativeEngine(config, weights, threads=1, isa="reference")
    engine = NativeEngine(config, weights, threads=2)
    outputs = engine.forward([(engine.new_sequence(), ids) for ids in prompts], logits="all", hidden=True)
    for ids, output in zip(prompts, outputs, strict=True):
        expected = reference.forward([(reference.new_sequence(), ids)], logits="all", hidden=True)[0]
        assert np.array_equal(output.logits, expected.logits)
        assert np.array_equal(output.hidden, expected.hidden)


def test_fork_and_truncate_continue_like_a_fresh_sequence() -> None:
    _, config, weights = random_model(3, n_positions=60, n_embd=32, n_head=2)
    rng = random.Random(3)
    ids = random_ids(rng, config, 50)
    engine = NativeEngine(config, weights, threads=2)
    sequence = engine.new_sequence()
    engine.forward([(sequence, ids[:40])], logits=None)
    fork = sequence.fork()
    engine.forward([(sequence, random_ids(rng, config, 10))], logits=None)  # must not disturb the fork
    sequence.truncate(20)
    fresh = engine.forward([(engine.new_sequence(), ids)], logits="all")[0].logits
    assert np.array_equal(engine.forward([(fork, ids[40:])], logits="all")[0].logits, fresh[40:])
    assert np.array_equal(engine.forward([(sequence, ids[20:])], logits="all")[0].logits, fresh[20:])
    assert (fork.length, sequence.length) == (50, 50)
