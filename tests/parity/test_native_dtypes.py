"""16-bit weights of the native engine, as they are stored: the results of the same values in float32."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt2kit import _native, load_engine
from gpt2kit.checkpoint import BFloat16Array, from_float32, to_float32
from gpt2kit.engine import NativeEngine
from gpt2kit.errors import CheckpointError, EngineError
from random_models import random_model, relative_error

DTYPES = ["F32", "BF16", "F16"]


def stored(array: np.ndarray, dtype: str) -> np.ndarray | BFloat16Array:
    bits = from_float32(array, dtype)
    return BFloat16Array(bits) if dtype == "BF16" else bits


def logits_of(engine: NativeEngine, ids: list[int]) -> np.ndarray:
    return engine.forward([(engine.new_sequence(), ids)], logits="all")[0].logits


@pytest.mark.parametrize("isa", _native.supported_isas())
@pytest.mark.parametrize("seed", range(12))
def test_every_mixture_of_formats_equals_its_values_in_float32(seed: int, isa: str) -> None:
    _, config, weights = random_model(4000 + seed, n_positions=60)
    rng = random.Random(seed)
    choices = DTYPES if seed % 3 == 0 else DTYPES[1:2] if seed % 3 == 1 else DTYPES[2:]
    dtypes = {name: rng.choice(choices) for name in weights}
    values = {
        name: to_float32(from_float32(array, dtypes[name]), dtypes[name]) for name, array in weights.items()
    }
    exact = NativeEngine(config, values, threads=1)
    engine = NativeEngine(
        config,
        {name: stored(array, dtypes[name]) for name, array in weights.items()},
        threads=rng.randint(1, 3),
        isa=isa,
    )
    prompts = [[rng.randrange(config.vocab_size) for _ in range(rng.randint(1, 60))] for _ in range(3)]
    expected = [
        exact.forward([(exact.new_sequence(), ids)], logits="all", hidden_states=True)[0] for ids in prompts
    ]

    together = engine.forward(
        [(engine.new_sequence(), ids) for ids in prompts], logits="all", hidden_states=True
    )
    for want, got in zip(expected, together, strict=True):
        assert np.array_equal(got.logits, want.logits)
        assert np.array_equal(got.hidden_states, want.hidden_states)
    sequence = engine.new_sequence()
    one_by_one = [engine.forward([(sequence, [token])])[0].logits for token in prompts[0]]
    assert np.array_equal(np.stack(one_by_one), expected[0].logits)


@pytest.mark.parametrize("isa", _native.supported_isas())
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_each_of_the_65536_values_widens_exactly(dtype: str, isa: str) -> None:
    shape = {"n_layer": 1, "n_head": 1, "n_embd": 16, "vocab_size": 4096, "n_positions": 4096, "n_inner": 1}
    _, config, weights = random_model(1, **shape, tie_word_embeddings=True)
    bits = np.arange(65536, dtype=np.uint16).reshape(4096, 16)
    weights["wte.weight"] = BFloat16Array(bits) if dtype == "BF16" else bits.view(np.float16)
    weights["wpe.weight"] = np.full((4096, 16), -0.0, np.float32)
    engine = NativeEngine(config, weights, threads=1, isa=isa)
    work = [(engine.new_sequence(), list(range(start, start + 64))) for start in range(0, 4096, 64)]
    outputs = engine.forward(work, logits=None, hidden_states=True)
    widened = np.concatenate([output.hidden_states[0] for output in outputs])
    expected = to_float32(bits if dtype == "BF16" else bits.view(np.float16), dtype)
    numbers = ~np.isnan(expected)
    assert np.array_equal(widened.view(np.uint32)[numbers], expected.view(np.uint32)[numbers])
    assert np.isnan(widened[~numbers]).all()


@pytest.mark.parametrize("isa", _native.supported_isas())
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_short_weights_may_start_at_any_address(dtype: str, isa: str) -> None:
    _, config, weights = random_model(3, n_positions=40)

    def moved(array: np.ndarray) -> np.ndarray | BFloat16Array:
        bits = from_float32(array, dtype)
        place = np.zeros(bits.nbytes + 1, np.uint8)[1:].view(bits.dtype).reshape(bits.shape)
        place[...] = bits
        return BFloat16Array(place) if dtype == "BF16" else place

    ids = [i % config.vocab_size for i in range(40)]
    aligned = NativeEngine(config, {name: stored(array, dtype) for name, array in weights.items()}, threads=1)
    engine = NativeEngine(config, {name: moved(array) for name, array in weights.items()}, threads=2, isa=isa)
    assert np.array_equal(logits_of(engine, ids), logits_of(aligned, ids))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_parameters_of_a_torch_model_are_read_where_they_lie(dtype: str, tied: bool) -> None:
    """An engine over a model's parameters sees every change at once, in matrices, vectors and embeddings."""
    torch.set_num_threads(1)
    shape = {"n_positions": 40, "vocab_size": 60, "n_embd": 32, "n_head": 2, "n_layer": 2}
    oracle, config, _ = random_model(9, **shape, tie_word_embeddings=tied)
    oracle.to(getattr(torch, dtype)).requires_grad_(False)

    def view(parameter: torch.Tensor) -> np.ndarray | BFloat16Array:
        if parameter.dtype == torch.bfloat16:
            return BFloat16Array(parameter.view(torch.uint16).numpy())
        return parameter.numpy()

    weights = {name.removeprefix("transformer."): view(p) for name, p in oracle.named_parameters()}
    engine = NativeEngine(config, weights, threads=2)
    ids = [[i * 7 % 60 for i in range(n)] for n in (40, 1)]  # packed panels and streamed rows
    before = [logits_of(engine, prompt) for prompt in ids]
    oracle32 = type(oracle)(oracle.config).eval()
    for parameter in oracle.parameters():
        kept = parameter.clone()
        parameter.mul_(1.5).add_(0.1)
        after = [logits_of(engine, prompt) for prompt in ids]
        oracle32.load_state_dict({k: v.float() for k, v in oracle.state_dict().items()})
        for prompt, was, now in zip(ids, before, after, strict=True):
            assert not np.array_equal(was, now)
            with torch.no_grad():
                assert relative_error(now, oracle32(torch.tensor([prompt])).logits[0].numpy()) < 2e-5
        parameter.copy_(kept)
    assert all(np.array_equal(logits_of(engine, p), b) for p, b in zip(ids, before, strict=True))


@pytest.mark.parametrize("saved", ["float32", "bfloat16", "float16"])
def test_folders_load_in_the_dtype_asked_for(saved: str, tmp_path: Path) -> None:
    oracle, _, _ = random_model(12, n_positions=40, vocab_size=60, n_embd=32, n_head=2)
    ids = [i * 7 % 60 for i in range(40)]
    dtypes = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
    oracle.to(dtypes[saved]).save_pretrained(tmp_path / saved)
    for dtype, torch_dtype in dtypes.items():
        oracle.from_pretrained(tmp_path / saved, dtype=torch_dtype).save_pretrained(tmp_path / "as" / dtype)
        engine = load_engine(tmp_path / saved, dtype=dtype)
        assert isinstance(engine, NativeEngine)
        assert np.array_equal(logits_of(engine, ids), logits_of(load_engine(tmp_path / "as" / dtype), ids))
    float32 = oracle.from_pretrained(tmp_path / saved, dtype=torch.float32)
    with torch.no_grad():
        expected = float32(torch.tensor([ids])).logits[0].numpy()
    auto = logits_of(load_engine(tmp_path / saved), ids)
    assert relative_error(auto, expected) < 2e-5
    assert np.array_equal(auto, logits_of(load_engine(tmp_path / saved, dtype="float32"), ids))


@pytest.mark.parametrize("dtype", ["float64", "int8", "", "BF16", "torch.bfloat16", None])
def test_another_dtype_is_refused(dtype: object, tmp_path: Path) -> None:
    oracle, _, _ = random_model(12, n_embd=16, n_head=2)
    oracle.save_pretrained(tmp_path)
    for engine in ("auto", "native", "torch"):
        with pytest.raises(
            EngineError, match=r"dtype is .*; it must be one of auto, float32, float16, bfloat16"
        ):
            load_engine(tmp_path, dtype=dtype, engine=engine)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int8, np.float64, ">f4", ">f2", bool, object])
def test_arrays_of_another_dtype_are_refused(dtype: object) -> None:
    _, config, weights = random_model(12, n_embd=16, n_head=2)
    weights["wpe.weight"] = weights["wpe.weight"].astype(dtype)
    with pytest.raises(EngineError, match=r"'wpe.weight' must be .* not .*BFloat16Array"):
        NativeEngine(config, weights)


def test_bits_of_bfloat16_are_uint16() -> None:
    with pytest.raises(CheckpointError, match="bits has dtype float32"):
        BFloat16Array(np.zeros(3, np.float32))
    _, config, weights = random_model(12, n_embd=16, n_head=2)
    wide = np.zeros((config.n_positions, 32), np.uint16)
    weights["wpe.weight"] = BFloat16Array(wide[:, ::2])
    with pytest.raises(EngineError, match=r"'wpe.weight' must be a C-contiguous array"):
        NativeEngine(config, weights)
