"""int8 weights of the native engine: bits of the reference everywhere, values of the dequantised weights."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from gpt2kit import AutoTokenizer, _native, builtin, load_engine, score
from gpt2kit.checkpoint import open_checkpoint, save_checkpoint
from gpt2kit.engine import NativeEngine
from gpt2kit.engine.quantize import is_matrix
from gpt2kit.errors import EngineError
from gpt2kit.quant import PackedInt8, dequantize_int8, packed_int8, unpack_int8
from gpt2kit.scoring import total
from random_models import random_model, relative_error

WORDS = ("wte.weight", "lm_head.weight")


def in_int8(weights: dict[str, np.ndarray], chosen=is_matrix) -> dict[str, np.ndarray | PackedInt8]:
    return {
        name: packed_int8(array.T if name in WORDS else array) if is_matrix(name) and chosen(name) else array
        for name, array in weights.items()
    }


def dequantized(weights: dict[str, np.ndarray | PackedInt8]) -> dict[str, np.ndarray]:
    values = {}
    for name, array in weights.items():
        if isinstance(array, PackedInt8):
            array = dequantize_int8(unpack_int8(array))
            array = np.ascontiguousarray(array.T) if name in WORDS else array
        values[name] = array
    return values


def all_outputs(engine: NativeEngine, prompts: list[list[int]]) -> list[np.ndarray]:
    outputs = engine.forward(
        [(engine.new_sequence(), ids) for ids in prompts], logits="all", hidden=True, hidden_states=True
    )
    return [array for out in outputs for array in (out.logits, out.hidden, out.hidden_states)]


@pytest.mark.parametrize("seed", range(16))
def test_every_instruction_set_batch_and_chunk_gives_the_same_bits(seed: int) -> None:
    _, config, weights = random_model(7000 + seed, n_positions=60)
    rng = random.Random(seed)
    mixed = in_int8(weights, (lambda _: True) if seed % 2 else (lambda _: rng.random() < 0.5))
    prompts = [[rng.randrange(config.vocab_size) for _ in range(rng.randint(1, 60))] for _ in range(3)]
    engines = [
        NativeEngine(config, mixed, threads=rng.randint(1, 3), isa=isa) for isa in _native.supported_isas()
    ]
    expected = all_outputs(engines[0], prompts)
    assert engines[0].isa == "reference"
    for engine in engines:
        for want, got in zip(expected, all_outputs(engine, prompts), strict=True):
            assert np.array_equal(got, want)
        sequence = engine.new_sequence()
        cuts = sorted({0, len(prompts[0]), *(rng.randint(0, len(prompts[0])) for _ in range(4))})
        pieces = [prompts[0][a:b] for a, b in itertools.pairwise(cuts)]
        chunked = [engine.forward([(sequence, piece)], logits="all")[0].logits for piece in pieces]
        assert np.array_equal(np.concatenate(chunked), expected[0])
        assert np.array_equal(engine.head(expected[1]), expected[0])


@pytest.mark.parametrize("seed", range(8))
def test_results_are_those_of_the_dequantised_weights(seed: int) -> None:
    _, config, weights = random_model(7100 + seed, n_positions=40, activation_function="gelu_new")
    quantized = in_int8(weights)
    prompts = [[random.Random(seed).randrange(config.vocab_size) for _ in range(30)]]
    engine, exact = NativeEngine(config, quantized), NativeEngine(config, dequantized(quantized))
    assert engine.quant == "int8" and exact.quant is None
    for got, want in zip(all_outputs(engine, prompts), all_outputs(exact, prompts), strict=True):
        assert relative_error(got, want) < 1e-3


def kernel_model(weight: np.ndarray, words: np.ndarray, embedding: np.ndarray, isa: str) -> NativeEngine:
    """Make a model of one block that adds nothing, so that its head multiplies what project() is given."""
    channels = weight.shape[0]
    _, config, weights = random_model(
        1, n_layer=1, n_embd=channels, n_head=1, n_inner=1, vocab_size=len(words), tie_word_embeddings=False
    )
    weights["lm_head.weight"] = words
    return NativeEngine(config, in_int8(weights), isa=isa, threads=1)


@pytest.mark.parametrize("isa", _native.supported_isas())
@pytest.mark.parametrize("channels", [1, 4, 63, 64, 65, 200])
def test_products_are_within_the_bound_of_the_rounding_of_activations(channels: int, isa: str) -> None:
    rng = np.random.default_rng(channels)
    words = (rng.standard_normal((37, channels)) * rng.choice([1e-3, 1.0, 50.0], (37, 1))).astype(np.float32)
    states = (rng.standard_normal((29, channels)) * rng.choice([1e-6, 1.0, 1e6], (29, 1))).astype(np.float32)
    states[3] = 0
    got = kernel_model(words.T, words, words, isa).head(states).astype(np.float64)
    values = dequantize_int8(unpack_int8(packed_int8(words.T))).astype(np.float64)
    exact = states @ values
    groups = [slice(k, k + 64) for k in range(0, channels, 64)]
    bound = sum(
        np.abs(states[:, g]).max(axis=1, keepdims=True) / 32767 * 0.51 * np.abs(values[g]).sum(axis=0)
        + np.abs(states[:, g]).astype(np.float64) @ np.abs(values[g]) * 2.0**-21
        for g in groups
    )
    assert (np.abs(got - exact) <= bound).all()


@pytest.mark.parametrize("isa", _native.supported_isas())
def test_codes_and_activations_of_the_full_range_do_not_overflow(isa: str) -> None:
    words = np.ones((32, 128), np.float32)
    words[1::2] = -1
    states = np.ones((13, 128), np.float32) * np.float32(3)
    states[5:] *= -1
    got = kernel_model(words.T, words, words, isa).head(states)
    assert relative_error(got, states @ words.T) < 2e-2  # scales of 1/127 are rounded up to a bfloat16
    assert np.array_equal(np.abs(got), np.full_like(got, np.abs(got[0, 0])))


@pytest.mark.parametrize("isa", _native.supported_isas())
def test_activations_that_are_not_finite_spoil_their_own_row_only(isa: str) -> None:
    rng = np.random.default_rng(0)
    words, states = (rng.standard_normal((n, 80)).astype(np.float32) for n in (20, 6))
    engine = kernel_model(words.T, words, words, isa)
    clean = engine.head(states)
    for value in (np.nan, np.inf, -np.inf):
        states[2, 79] = value
        got = engine.head(states)
        assert np.isnan(got[2]).all()
        assert np.array_equal(np.delete(got, 2, axis=0), np.delete(clean, 2, axis=0))
    states[2] = 1e-40  # too small to matter
    assert (engine.head(states)[2] == 0).all()


def test_loaded_weights_are_quantised_and_perplexity_stays() -> None:
    plain, quantized = load_engine(builtin.path()), load_engine(builtin.path(), quant="int8")
    assert (plain.quant, quantized.quant) == (None, "int8")
    tokenizer = AutoTokenizer.from_pretrained(builtin.path())
    # Single sentences go up or down by a few times as much; text of its own, some 5,000 tokens, shows the mean.
    prompt = tokenizer("In the beginning")["input_ids"]
    rows = plain.generate(
        [prompt], 250, num_return_sequences=20, do_sample=True, temperature=1.0, top_k=0, seed=1
    )
    texts = [tokenizer.decode(row) for row in rows]
    before, after = (total(score(engine, tokenizer, texts)).perplexity for engine in (plain, quantized))
    assert before is not None and after is not None and 2 < before < 200
    assert abs(after / before - 1) < 1e-3


def test_what_cannot_be_quantised_is_refused(tmp_path: Path) -> None:
    _, config, weights = random_model(3, n_embd=16, n_head=2, n_layer=1)
    weights = {name: array.copy() for name, array in weights.items()}
    weights["h.0.mlp.c_fc.weight"][3, 1] = np.inf
    save_checkpoint(tmp_path / "model", weights, config)
    with pytest.raises(
        EngineError, match=r"h\.0\.mlp\.c_fc\.weight: the matrix has weights that are not finite"
    ):
        load_engine(tmp_path / "model", quant="int8")
    for options, message in [
        ({"quant": "int7"}, "quant is 'int7'; it must be None or one of 'int8'"),
        ({"quant": "int8", "dtype": "bfloat16"}, "leave dtype out"),
        ({"quant": "int8", "engine": "torch"}, "is for the native engine"),
    ]:
        with pytest.raises(EngineError, match=message):
            load_engine(tmp_path / "model", **options)
    del weights["h.0.mlp.c_fc.weight"]
    packed = packed_int8(np.zeros((16, 7), np.float32))
    with pytest.raises(EngineError, match="is not a C-contiguous array of"):
        NativeEngine(config, weights | {"h.0.mlp.c_fc.weight": packed})


def test_float16_and_bfloat16_files_quantise_as_their_values(tmp_path: Path) -> None:
    _, config, weights = random_model(11, n_embd=48, n_head=2, tie_word_embeddings=False)
    save_checkpoint(tmp_path / "model", weights, config, dtypes="BF16")
    checkpoint = open_checkpoint(tmp_path / "model")
    engine = load_engine(checkpoint, quant="int8")
    values = {name: checkpoint.float32(name) for name in checkpoint.names()}
    expected = NativeEngine(config, in_int8(values))
    for got, want in zip(all_outputs(engine, [[1, 2, 0]]), all_outputs(expected, [[1, 2, 0]]), strict=True):
        assert np.array_equal(got, want)
