"""Keys and values that leave a native sequence, enter another, or come from Transformers' cache."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from gpt2kit.engine import NativeEngine
from gpt2kit.errors import EngineError
from random_models import random_model, relative_error

# float32 sums of at most a few hundred terms in another order.
TOLERANCE = 2e-5


@pytest.mark.parametrize("seed", range(20))
def test_both_ways_between_the_engine_and_transformers(seed: int) -> None:
    torch.set_num_threads(1)
    oracle, config, weights = random_model(5000 + seed)
    rng = random.Random(seed)
    ids = [rng.randrange(config.vocab_size) for _ in range(config.n_positions)]
    cut = rng.randrange(1, len(ids))
    with torch.no_grad():
        part = oracle(torch.tensor([ids[:cut]]), use_cache=True)
        whole = oracle(torch.tensor([ids])).logits[0].numpy()
    theirs = [
        np.stack([getattr(layer, name)[0] for layer in part.past_key_values.layers])
        for name in ("keys", "values")
    ]
    engine = NativeEngine(config, weights, threads=rng.randint(1, 3))

    sequence = engine.new_sequence()
    engine.forward([(sequence, ids[:cut])], logits=None)
    ours = sequence.keys_values()
    for mine, their in zip(ours, theirs, strict=True):
        assert mine.shape == (config.n_layer, config.n_head, cut, config.n_embd // config.n_head)
        assert relative_error(mine, their) < TOLERANCE

    continued = engine.new_sequence_from(*theirs)
    assert continued.length == cut
    logits = engine.forward([(continued, ids[cut:])], logits="all")[0].logits
    assert relative_error(logits, whole[cut:]) < TOLERANCE


@pytest.mark.parametrize("seed", range(10))
def test_a_sequence_from_another_ones_keys_and_values_is_the_same(seed: int) -> None:
    _, config, weights = random_model(6000 + seed)
    rng = random.Random(seed)
    ids = [rng.randrange(config.vocab_size) for _ in range(config.n_positions)]
    cut = rng.randrange(len(ids))
    engine = NativeEngine(config, weights, threads=2)
    expected = engine.forward([(engine.new_sequence(), ids)], logits="all")[0].logits[cut:]
    sequence = engine.new_sequence()
    if cut:
        engine.forward([(sequence, ids[:cut])], logits=None)
    keys, values = sequence.keys_values()
    copy = engine.new_sequence_from(keys, values)
    kept = keys.copy(), values.copy()
    for sequence_, name in ((sequence, "original"), (copy, "copy")):
        assert np.array_equal(engine.forward([(sequence_, ids[cut:])], logits="all")[0].logits, expected), (
            name
        )
    keys[...] = values[...] = np.nan  # copies, both ways
    copy.truncate(cut)
    assert all(np.array_equal(a, b) for a, b in zip(copy.keys_values(), kept, strict=True))


@pytest.mark.parametrize(
    ("keys", "values", "message"),
    [
        ((2, 3, 5, 15), (2, 3, 5, 16), r"keys have shape \(2, 3, 5, 15\); it must be \(2, 3, S, 16\)"),
        ((2, 3, 5, 16), (3, 2, 5, 16), r"values have shape \(3, 2, 5, 16\)"),
        ((1, 3, 5, 16), (1, 3, 5, 16), "keys have shape"),
        ((2, 3, 5, 16), (2, 3, 4, 16), "both must have the same"),
        ((2, 3, 41, 16), (2, 3, 41, 16), "S at most n_positions, 40"),
        ((2, 3, 80), (2, 3, 80), "keys have shape"),
        ((1, 2, 3, 5, 16), (1, 2, 3, 5, 16), "keys have shape"),
    ],
)
def test_other_shapes_are_refused(keys: tuple[int, ...], values: tuple[int, ...], message: str) -> None:
    _, config, weights = random_model(11, n_embd=48, n_head=3, n_layer=2, n_positions=40)
    engine = NativeEngine(config, weights, threads=1)
    with pytest.raises(EngineError, match=message):
        engine.new_sequence_from(np.zeros(keys), np.zeros(values))


def test_a_full_an_empty_and_a_freed_sequence() -> None:
    _, config, weights = random_model(11, n_embd=48, n_head=3, n_layer=2, n_positions=40)
    engine = NativeEngine(config, weights, threads=1)
    full = engine.new_sequence_from(np.ones((2, 3, 40, 16)), np.ones((2, 3, 40, 16)))
    assert full.length == 40
    with pytest.raises(EngineError, match="n_positions is 40"):
        engine.forward([(full, [0])])
    empty = engine.new_sequence_from(*engine.new_sequence().keys_values())
    assert empty.length == 0
    empty.free()
    with pytest.raises(ValueError, match=r"cannot read a sequence after free\(\)"):
        empty.keys_values()
