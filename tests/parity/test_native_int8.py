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
from gpt2kit.engine.compute import Compute
from gpt2kit.engine.quantize import is_matrix
from gpt2kit.errors import EngineError
from gpt2kit.generation.protocol import Phase
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


def all_outputs(
    engine: NativeEngine, prompts: list[list[int]], phase: Phase | list[Phase] = "prefill"
) -> list[np.ndarray]:
    outputs = engine.forward(
        [(engine.new_sequence(), ids) for ids in prompts],
        logits="all",
        hidden=True,
        hidden_states=True,
        phase=phase,
    )
    return [array for out in outputs for array in (out.logits, out.hidden, out.hidden_states)]


@pytest.mark.parametrize("seed", range(18))
def test_every_instruction_set_batch_and_chunk_gives_the_same_bits(seed: int) -> None:
    _, config, weights = random_model(7000 + seed, n_positions=60)
    rng = random.Random(seed)
    compute = ("auto", "int16", "int8")[seed % 3]
    mixed = in_int8(weights, (lambda _: True) if seed % 2 else (lambda _: rng.random() < 0.5))
    prompts = [[rng.randrange(config.vocab_size) for _ in range(rng.randint(1, 60))] for _ in range(3)]
    engines = [
        NativeEngine(config, mixed, threads=rng.randint(1, 3), isa=isa, compute=compute)
        for isa in _native.supported_isas()
    ]
    phases: list[Phase] = [rng.choice(["prefill", "decode"]) for _ in prompts]
    expected = all_outputs(engines[0], prompts, phases)
    assert engines[0].isa == "reference"
    for engine in engines:
        for want, got in zip(expected, all_outputs(engine, prompts, phases), strict=True):
            assert np.array_equal(got, want)
        sequence = engine.new_sequence()
        cuts = sorted({0, len(prompts[0]), *(rng.randint(0, len(prompts[0])) for _ in range(4))})
        pieces = [prompts[0][a:b] for a, b in itertools.pairwise(cuts)]
        chunked = [
            engine.forward([(sequence, piece)], logits="all", phase=phases[0])[0].logits for piece in pieces
        ]
        assert np.array_equal(np.concatenate(chunked), expected[0])
        assert np.array_equal(engine.head(expected[1], phase=phases[0]), expected[0])


@pytest.mark.parametrize("seed", range(4))
def test_auto_takes_8_bits_for_prompts_and_16_for_what_is_generated(seed: int) -> None:
    _, config, weights = random_model(7050 + seed, n_positions=60)
    matrices = in_int8(weights)
    auto, wide, narrow = (NativeEngine(config, matrices, compute=name) for name in ("auto", "int16", "int8"))
    assert [engine.compute for engine in (auto, wide, narrow)] == ["auto", "int16", "int8"]
    assert auto.first_layers(1).compute == "auto"
    prompts = [[1, 2, 0, 1], [2, 0]]
    mixed = all_outputs(auto, prompts, ["prefill", "decode"])
    assert all(
        np.array_equal(got, want)
        for got, want in zip(mixed[:3], all_outputs(narrow, prompts)[:3], strict=True)
    )
    assert all(
        np.array_equal(got, want) for got, want in zip(mixed[3:], all_outputs(wide, prompts)[3:], strict=True)
    )
    assert not np.array_equal(mixed[0], all_outputs(wide, prompts)[0])


@pytest.mark.parametrize("length", [3, 12])
def test_all_loops_generate_the_same_ids_in_both_phases(length: int) -> None:
    _, config, weights = random_model(7060, n_layer=2, n_positions=16, vocab_size=40)
    engine = NativeEngine(config, in_int8(weights))
    prompts = [[1, 2, 3] * (length // 3), [4, 5]]
    options = {"max_new_tokens": 24, "do_sample": True, "seed": 3, "long_generation": "slide"}
    expected = engine.generate(prompts, num_return_sequences=2, **options)
    seen = []
    in_python = engine.generate(
        prompts,
        num_return_sequences=2,
        logits_processor=[lambda ids, scores: (seen.append(len(ids)), scores)[1]],
        **options,
    )
    assert in_python == expected and seen
    for guessing in ({"prompt_lookup_num_tokens": 3}, {"assistant_early_exit": 1}):
        assert engine.generate(prompts, num_return_sequences=2, **guessing, **options) == expected


@pytest.mark.parametrize(("compute", "tolerance"), [("int16", 1e-3), ("int8", 6e-2)])
@pytest.mark.parametrize("seed", range(8))
def test_results_are_those_of_the_dequantised_weights(seed: int, compute: Compute, tolerance: float) -> None:
    _, config, weights = random_model(7100 + seed, n_positions=40, activation_function="gelu_new")
    quantized = in_int8(weights)
    prompts = [[random.Random(seed).randrange(config.vocab_size) for _ in range(30)]]
    engine = NativeEngine(config, quantized, compute=compute)
    exact = NativeEngine(config, dequantized(quantized))
    assert engine.quant == "int8" and exact.quant is None
    for got, want in zip(all_outputs(engine, prompts), all_outputs(exact, prompts), strict=True):
        assert relative_error(got, want) < tolerance


def kernel_model(words: np.ndarray, isa: str, compute: Compute) -> NativeEngine:
    """Make a model of one block that adds nothing, so that its head multiplies what project() is given."""
    channels = words.shape[1]
    _, config, weights = random_model(
        1, n_layer=1, n_embd=channels, n_head=1, n_inner=1, vocab_size=len(words), tie_word_embeddings=False
    )
    weights["lm_head.weight"] = words
    return NativeEngine(config, in_int8(weights), isa=isa, threads=1, compute=compute)


both = pytest.mark.parametrize("compute", ["int16", "int8"])


@both
@pytest.mark.parametrize("isa", _native.supported_isas())
@pytest.mark.parametrize("channels", [1, 4, 63, 64, 65, 200])
def test_products_are_within_the_bound_of_the_rounding_of_activations(
    channels: int, isa: str, compute: Compute
) -> None:
    rng = np.random.default_rng(channels)
    words = (rng.standard_normal((37, channels)) * rng.choice([1e-3, 1.0, 50.0], (37, 1))).astype(np.float32)
    states = (rng.standard_normal((29, channels)) * rng.choice([1e-6, 1.0, 1e6], (29, 1))).astype(np.float32)
    states[3] = 0
    got = kernel_model(words, isa, compute).head(states).astype(np.float64)
    values = dequantize_int8(unpack_int8(packed_int8(words.T))).astype(np.float64)
    exact = states @ values
    groups = [slice(k, k + 64) for k in range(0, channels, 64)]
    most = {"int16": 32767, "int8": 127}[compute]
    bound = sum(
        np.abs(states[:, g]).max(axis=1, keepdims=True) / most * 0.51 * np.abs(values[g]).sum(axis=0)
        + np.abs(states[:, g]).astype(np.float64) @ np.abs(values[g]) * 2.0**-21
        for g in groups
    )
    assert (np.abs(got - exact) <= bound).all()


@both
@pytest.mark.parametrize("isa", _native.supported_isas())
def test_codes_and_activations_of_the_full_range_do_not_overflow(isa: str, compute: Compute) -> None:
    words = np.ones((32, 128), np.float32)
    words[1::2] = -1
    states = np.ones((13, 128), np.float32) * np.float32(3)
    states[5:] *= -1
    got = kernel_model(words, isa, compute).head(states)
    assert relative_error(got, states @ words.T) < 2e-2  # scales of 1/127 are rounded up to a bfloat16
    assert np.array_equal(np.abs(got), np.full_like(got, np.abs(got[0, 0])))


@both
@pytest.mark.parametrize("isa", _native.supported_isas())
def test_activations_that_are_not_finite_spoil_their_own_row_only(isa: str, compute: Compute) -> None:
    rng = np.random.default_rng(0)
    words, states = (rng.standard_normal((n, 80)).astype(np.float32) for n in (20, 6))
    engine = kernel_model(words, isa, compute)
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
    for engine_weights, compute, message in [
        (weights, "int8", "compute is 'int8', but no matrix is quantised"),
        (weights, "int7", "compute is 'int7'; it must be one of auto, float32"),
        (in_int8(weights, lambda name: "c_fc" not in name), "bfloat16", "but matrices are in int8"),
    ]:
        with pytest.raises(EngineError, match=message):
            NativeEngine(config, engine_weights, compute=compute)  # type: ignore[arg-type]
    engine = NativeEngine(config, in_int8(weights, lambda name: "c_fc" not in name))
    with pytest.raises(EngineError, match="phase is 'prompt'; it must be 'prefill' or 'decode'"):
        engine.forward([(engine.new_sequence(), [1])], phase="prompt")  # type: ignore[arg-type]
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
