"""What the native engine shows of its inside: hidden states and attentions of every layer, head masks."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from gpt2kit import _native
from gpt2kit.engine import NativeEngine
from gpt2kit.errors import EngineError
from random_models import random_model, relative_error

# float32 sums of at most a few hundred terms in another order.
TOLERANCE = 2e-5


def random_ids(rng: random.Random, config, length: int) -> list[int]:
    return [rng.randrange(config.vocab_size) for _ in range(length)]


@pytest.mark.parametrize("seed", range(40))
def test_every_layer_equals_transformers(seed: int) -> None:
    torch.set_num_threads(1)
    oracle, config, weights = random_model(2000 + seed)
    rng = random.Random(seed)
    ids = random_ids(rng, config, rng.randint(1, config.n_positions))
    with torch.no_grad():
        expected = oracle(torch.tensor([ids]), output_hidden_states=True, output_attentions=True)
    engine = NativeEngine(config, weights, threads=rng.randint(1, 3))
    [output] = engine.forward([(engine.new_sequence(), ids)], hidden_states=True, attentions=True)

    states = np.stack([state[0].numpy() for state in expected.hidden_states])
    attentions = np.stack([attention[0].numpy() for attention in expected.attentions])
    assert output.hidden_states.shape == states.shape
    assert output.attentions.shape == attentions.shape
    for ours, theirs in zip(output.hidden_states, states, strict=True):
        assert relative_error(ours, theirs) < TOLERANCE
    assert np.abs(output.attentions - attentions).max() < TOLERANCE


@pytest.mark.parametrize("seed", range(20))
def test_batch_chunks_threads_and_instruction_set_change_no_bit(seed: int) -> None:
    _, config, weights = random_model(3000 + seed)
    rng = random.Random(seed)
    mask = np.random.default_rng(seed).random((config.n_layer, config.n_head), np.float32)
    prompts = [random_ids(rng, config, rng.randint(1, config.n_positions)) for _ in range(3)]
    asked = {"logits": "all", "hidden": True, "hidden_states": True, "attentions": True, "head_mask": mask}
    reference = NativeEngine(config, weights, threads=1, isa="reference")
    alone = [reference.forward([(reference.new_sequence(), ids)], **asked)[0] for ids in prompts]

    for isa in _native.supported_isas():
        engine = NativeEngine(config, weights, threads=rng.randint(1, 4), isa=isa)
        work = []
        for ids in prompts:
            sequence = engine.new_sequence()
            cut = rng.randrange(len(ids))
            if cut:
                engine.forward([(sequence, ids[:cut])], logits=None, head_mask=mask)
            work.append((sequence, ids[cut:]))
        for expected, output, (_, rest) in zip(alone, engine.forward(work, **asked), work, strict=True):
            new = len(rest)
            assert np.array_equal(output.logits, expected.logits[-new:])
            assert np.array_equal(output.hidden, output.hidden_states[-1])
            assert np.array_equal(output.hidden_states, expected.hidden_states[:, -new:])
            assert np.array_equal(output.attentions, expected.attentions[:, :, -new:])


def test_captures_of_more_rows_than_one_pass_takes() -> None:
    _, config, weights = random_model(7, n_positions=700, n_embd=32, n_head=2, n_inner=33, n_layer=2)
    rng = random.Random(7)
    prompts = [random_ids(rng, config, 690), random_ids(rng, config, 300)]
    engine = NativeEngine(config, weights, threads=2)
    plain = engine.forward([(engine.new_sequence(), ids) for ids in prompts], logits="all")
    outputs = engine.forward(
        [(engine.new_sequence(), ids) for ids in prompts], logits="all", hidden_states=True, attentions=True
    )
    for ids, expected, output in zip(prompts, plain, outputs, strict=True):
        assert np.array_equal(output.logits, expected.logits)
        assert expected.hidden_states is None
        assert expected.attentions is None
        assert output.hidden_states.shape == (3, len(ids), 32)
        assert output.attentions.shape == (2, 2, len(ids), len(ids))
        assert np.abs(output.attentions.sum(-1) - 1).max() < 1e-5
        assert not np.triu(output.attentions, 1).any()
        sequence = engine.new_sequence()
        for start in range(0, len(ids), 200):
            [part] = engine.forward(
                [(sequence, ids[start : start + 200])], hidden_states=True, attentions=True
            )
            end = sequence.length
            assert np.array_equal(part.hidden_states, output.hidden_states[:, start:end])
            assert np.array_equal(part.attentions, output.attentions[:, :, start:end, :end])


def test_a_head_mask_scales_what_a_head_adds() -> None:
    _, config, weights = random_model(11, n_embd=48, n_head=3, n_layer=2, n_positions=40)
    rng = random.Random(11)
    ids = random_ids(rng, config, 35)
    engine = NativeEngine(config, weights, threads=2)

    def run(engine: NativeEngine, mask: object = None) -> object:
        return engine.forward([(engine.new_sequence(), ids)], logits="all", attentions=True, head_mask=mask)[
            0
        ]

    plain = run(engine)
    ones = run(engine, np.ones((2, 3)))
    assert np.array_equal(ones.logits, plain.logits)
    assert np.array_equal(ones.attentions, plain.attentions)

    mask = np.array([[1, 0, 0.5], [0.25, 1, 0]], np.float32)
    scaled = dict(weights)
    for layer in range(2):
        name = f"h.{layer}.attn.c_proj.weight"
        scaled[name] = weights[name] * np.repeat(mask[layer], 16)[:, None]
    masked = run(engine, mask)
    # Factors that are powers of two round nothing.
    assert np.array_equal(masked.logits, run(NativeEngine(config, scaled)).logits)
    assert np.array_equal(masked.attentions[0], plain.attentions[0] * mask[0][:, None, None])
    assert not np.array_equal(masked.logits, plain.logits)


@pytest.mark.parametrize("shape", [(3,), (2, 2), (2, 3, 1), (), (0, 3)])
def test_a_head_mask_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    _, config, weights = random_model(11, n_embd=48, n_head=3, n_layer=2)
    engine = NativeEngine(config, weights, threads=1)
    sequence = engine.new_sequence()
    with pytest.raises(EngineError, match=r"head_mask has shape .* it must be \(2, 3\)"):
        engine.forward([(sequence, [0])], head_mask=np.ones(shape))
    assert sequence.length == 0
