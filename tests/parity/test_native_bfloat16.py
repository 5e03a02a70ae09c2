"""NativeEngine(compute="bfloat16"): to the bit the same however it is run, and what rounding in torch gives."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.pytorch_utils import Conv1D

from gpt2kit import _native, load_engine
from gpt2kit.checkpoint import BFloat16Array, from_float32, to_float32
from gpt2kit.engine import NativeEngine
from gpt2kit.errors import EngineError
from random_models import random_model, relative_error


def in_bfloat16(weights: dict[str, np.ndarray]) -> dict[str, BFloat16Array]:
    return {name: BFloat16Array(from_float32(array, "BF16")) for name, array in weights.items()}


def random_ids(rng: random.Random, vocab_size: int, length: int) -> list[int]:
    return [rng.randrange(vocab_size) for _ in range(length)]


def all_logits(engine: NativeEngine, ids: list[int]) -> np.ndarray:
    return engine.forward([(engine.new_sequence(), ids)], logits="all")[0].logits


@pytest.mark.parametrize("seed", range(24))
def test_batch_chunks_threads_and_instruction_set_change_no_bit(seed: int) -> None:
    _, config, weights = random_model(6000 + seed)
    stored = in_bfloat16(weights)
    rng = random.Random(seed)
    prompts = [random_ids(rng, config.vocab_size, rng.randint(1, config.n_positions)) for _ in range(3)]
    reference = NativeEngine(config, stored, threads=1, isa="reference", compute="bfloat16")
    alone = [all_logits(reference, ids) for ids in prompts]

    for isa in _native.supported_isas():
        engine = NativeEngine(config, stored, threads=rng.randint(1, 4), isa=isa, compute="bfloat16")
        work = []
        for ids in prompts:
            sequence = engine.new_sequence()
            cut = rng.randrange(len(ids))
            if cut:
                engine.forward([(sequence, ids[:cut])], logits=None)
            work.append((sequence, ids[cut:]))
        for ids, output, expected in zip(prompts, engine.forward(work, logits="all"), alone, strict=True):
            assert np.array_equal(output.logits, expected[len(expected) - len(output.logits) :]), len(ids)
        sequence = engine.new_sequence()
        one_by_one = [engine.forward([(sequence, [token])])[0].logits for token in prompts[0]]
        assert np.array_equal(np.stack(one_by_one), alone[0])
        hidden = engine.forward([(engine.new_sequence(), prompts[0])], hidden=True)[0].hidden
        assert np.array_equal(engine.head(hidden), alone[0])


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_chains_of_several_chunks_change_no_bit(compute: str) -> None:
    _, config, weights = random_model(6300, n_positions=48, n_layer=1, n_embd=70, n_head=2, n_inner=3203)
    stored = in_bfloat16(weights)
    ids = random_ids(random.Random(0), config.vocab_size, 47)
    expected = all_logits(NativeEngine(config, stored, threads=1, isa="reference", compute=compute), ids)
    for isa in _native.supported_isas():
        for threads in (1, 2):
            engine = NativeEngine(config, stored, threads=threads, isa=isa, compute=compute)
            assert np.array_equal(all_logits(engine, ids), expected), (isa, threads)


@pytest.mark.parametrize("seed", range(12))
def test_results_are_those_of_rounded_activations_in_torch(seed: int) -> None:
    torch.set_num_threads(1)
    oracle, config, weights = random_model(6100 + seed, n_positions=60, n_layer=1)
    stored = in_bfloat16(weights)
    ids = random_ids(random.Random(seed), config.vocab_size, 60)
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.copy_(parameter.bfloat16().float())
        exact = oracle(torch.tensor([ids])).logits[0].numpy()
        for module in oracle.modules():
            if isinstance(module, Conv1D | torch.nn.Linear):
                module.register_forward_pre_hook(lambda _, inputs: (inputs[0].bfloat16().float(),))
        rounded = oracle(torch.tensor([ids])).logits[0].numpy()
    found = all_logits(NativeEngine(config, stored, threads=1, compute="bfloat16"), ids)
    # A sum of float32 in another order may round to the neighbour, so most values agree closely, not all.
    difference = np.abs(found - rounded).mean()
    assert difference <= 0.25 * np.abs(exact - rounded).mean()
    assert relative_error(found, rounded) < 2e-2


def hostile(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Any exponent, subnormals and infinities included, and often values whose products are subnormal."""
    bits = rng.integers(0, 65536, shape).astype(np.uint16)
    near_underflow = (bits & 0x807F) | (rng.integers(56, 72, shape).astype(np.uint16) << 7)
    values = to_float32(np.where(rng.random(shape) < 0.7, near_underflow, bits).astype(np.uint16), "BF16")
    return np.where(np.isnan(values), np.float32(1e-40), values)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("channels", [1, 2, 34, 65, 128])
def test_hostile_values_round_alike_on_every_instruction_set(channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    _, config, weights = random_model(1, n_embd=channels, n_head=1, vocab_size=200, tie_word_embeddings=True)
    weights["wte.weight"] = hostile(rng, (200, channels))
    states = np.float32(hostile(rng, (9, channels)) * rng.choice([1.0, 1 + 2**-9, 1 + 2**-8], (9, channels)))
    found = [
        NativeEngine(config, in_bfloat16(weights), threads=1, isa=isa, compute="bfloat16").head(states)
        for isa in _native.supported_isas()
    ]
    for other in found[1:]:
        numbers = ~np.isnan(found[0])
        assert np.array_equal(np.isnan(other), ~numbers)
        assert np.array_equal(other.view(np.uint32)[numbers], found[0].view(np.uint32)[numbers])


def test_a_pair_adds_its_second_product_first_and_flushes_subnormals() -> None:
    def product(x: list[float], w: list[float], isa: str) -> float:
        _, config, weights = random_model(1, n_embd=2, n_head=1, vocab_size=3, tie_word_embeddings=True)
        weights["wte.weight"] = np.float32([w] * 3)
        engine = NativeEngine(config, in_bfloat16(weights), threads=1, isa=isa, compute="bfloat16")
        return float(engine.head(np.float32([x]))[0, 0])

    smallest = 2.0**-126
    for isa in _native.supported_isas():
        assert product([1 + 2**-7, 1 + 2**-8], [1, 1], isa) == 2 + 2**-7  # a tie rounds to even
        assert product([3 * 2.0**-24, 1], [1, 1], isa) == 1 + 2**-22
        # 2^-127 is lost as the first of the two, and would not be as the second.
        assert product([smallest, smallest], [1, 0.5], isa) == smallest
        assert product([smallest, smallest], [0.5, 1], isa) == 1.5 * smallest
        assert product([smallest / 2, 1], [1, 0], isa) == 0


def test_every_fast_instruction_set_has_fast_products() -> None:
    # The reference's products take some hundred times as long as float32's, the slowest others three times.
    _, config, weights = random_model(6200, n_positions=64, n_layer=1, n_embd=256, n_head=4)
    ids = random_ids(random.Random(0), config.vocab_size, 64)
    for isa in set(_native.supported_isas()) - {"reference"}:
        in_float32 = NativeEngine(config, weights, threads=1, isa=isa)
        in_bfloat = NativeEngine(config, in_bfloat16(weights), threads=1, isa=isa, compute="bfloat16")
        assert fastest(in_bfloat, ids) < 10 * fastest(in_float32, ids), isa


def fastest(engine: NativeEngine, ids: list[int]) -> float:
    times = []
    for _ in range(5):
        begin = time.thread_time()
        engine.forward([(engine.new_sequence(), ids)])
        times.append(time.thread_time() - begin)
    return min(times)


def test_loading_a_folder(tmp_path: Path) -> None:
    oracle, config, weights = random_model(12, n_positions=40, vocab_size=60, n_embd=32, n_head=2)
    oracle.save_pretrained(tmp_path)
    ids = [i * 7 % 60 for i in range(40)]
    expected = NativeEngine(config, in_bfloat16(weights), compute="bfloat16")
    engine = load_engine(tmp_path, dtype="bfloat16", compute="bfloat16")
    assert isinstance(engine, NativeEngine)
    assert engine.compute == "bfloat16"
    assert engine.first_layers(1).compute == "bfloat16"
    assert np.array_equal(all_logits(engine, ids), all_logits(expected, ids))
    exact = load_engine(tmp_path, dtype="bfloat16")
    assert isinstance(exact, NativeEngine)
    assert exact.compute == "float32"
    assert not np.array_equal(all_logits(exact, ids), all_logits(expected, ids))


def test_what_cannot_run_is_refused(tmp_path: Path) -> None:
    oracle, config, weights = random_model(12, n_embd=16, n_head=2)
    oracle.save_pretrained(tmp_path)
    for name in ("wte.weight", "h.0.mlp.c_proj.weight"):
        with pytest.raises(
            EngineError, match=rf"tensor '{name}' is not; load the weights with dtype='bfloat16'"
        ):
            NativeEngine(config, in_bfloat16(weights) | {name: weights[name]}, compute="bfloat16")
    with pytest.raises(EngineError, match="must be one of auto, float32, bfloat16"):
        NativeEngine(config, weights, compute="float16")  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="compute is for the native engine"):
        load_engine(tmp_path, engine="torch", dtype="bfloat16", compute="bfloat16")
    vectors = ("ln_f.weight", "h.0.attn.c_attn.bias", "wpe.weight")
    mixed = in_bfloat16(weights) | {name: weights[name] for name in vectors}
    assert NativeEngine(config, mixed, compute="bfloat16").compute == "bfloat16"
