"""NF4 in the native engine: bits of the reference everywhere, values of bitsandbytes' dequantised weights."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt2kit import AutoTokenizer, BitsAndBytesConfig, _native, builtin, load_engine, score
from gpt2kit.checkpoint import open_checkpoint, save_checkpoint
from gpt2kit.engine import NativeEngine
from gpt2kit.engine.quantize import is_matrix
from gpt2kit.errors import EngineError
from gpt2kit.model import GPT2LMHeadModel
from gpt2kit.quant import (
    PackedInt8,
    PackedNf4,
    dequantize_int8,
    dequantize_nf4,
    pack_nf4,
    packed_int8,
    packed_nf4,
    quantize_4bit,
    unpack_int8,
)
from gpt2kit.scoring import total
from random_models import random_model, relative_error

EXCERPT = (Path(__file__).parents[1] / "data" / "persuasion_excerpt.txt").read_text()
WORDS = ("wte.weight", "lm_head.weight")
Weights = dict[str, Any]


def nf4_model(seed: int, **options: Any) -> tuple[Any, Weights]:
    """Return a configuration and float weights whose matrices fill blocks of 64."""
    rng = random.Random(seed)
    n_embd = rng.choice([64, 128, 192])
    shape = {"n_embd": n_embd, "n_head": 2, "n_inner": rng.choice([64, 128, 320]), "n_positions": 60}
    _, config, weights = random_model(seed, **(shape | options))
    return config, weights


def in_nf4(weights: Weights, rng: random.Random) -> Weights:
    """Return the weights with blocks in NF4, now and then in another format; the words in int8 or NF4."""
    packed: Weights = {}
    for name, array in weights.items():
        kind = rng.choice(["nf4", "nf4", "nf4", "single", "int8", "float"])
        if not is_matrix(name) or kind == "float":
            packed[name] = array
            continue
        matrix = array.T if name in WORDS else array
        if kind == "int8" or name == "wte.weight":
            packed[name] = packed_int8(matrix)
        else:
            packed[name] = pack_nf4(quantize_4bit(matrix.T, "nf4", double_quant=kind == "nf4"))
    return packed


def dequantized(weights: Weights) -> Weights:
    values = {}
    for name, array in weights.items():
        if isinstance(array, (PackedInt8, PackedNf4)):
            is_nf4 = isinstance(array, PackedNf4)
            array = dequantize_nf4(array) if is_nf4 else dequantize_int8(unpack_int8(array))
            array = np.ascontiguousarray(array.T) if name in WORDS else array
        values[name] = array
    return values


def all_outputs(engine: NativeEngine, prompts: list[list[int]]) -> list[np.ndarray]:
    outputs = engine.forward(
        [(engine.new_sequence(), ids) for ids in prompts], logits="all", hidden=True, hidden_states=True
    )
    return [array for out in outputs for array in (out.logits, out.hidden, out.hidden_states)]


def random_prompts(config: Any, rng: random.Random) -> list[list[int]]:
    lengths = [rng.randint(1, config.n_positions) for _ in range(3)]
    return [[rng.randrange(config.vocab_size) for _ in range(length)] for length in lengths]


@pytest.mark.parametrize("seed", range(12))
def test_every_instruction_set_batch_and_chunk_gives_the_same_bits(seed: int) -> None:
    rng = random.Random(seed)
    wide = {
        "n_embd": 64,
        "n_inner": 64 * 260,
        "n_layer": 1,
        "n_positions": 6,
    }  # more nested scales than a register holds
    config, weights = nf4_model(7200 + seed, **(wide if seed == 0 else {}))
    packed = in_nf4(weights, rng)
    prompts = random_prompts(config, rng)
    engines = [
        NativeEngine(config, packed, threads=rng.randint(1, 3), isa=isa) for isa in _native.supported_isas()
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


def head_model(words: np.ndarray, isa: str, double_quant: bool = True) -> tuple[NativeEngine, np.ndarray]:
    """Make a model whose head, in NF4, multiplies what head() is given; return its dequantised matrix (in, out)."""
    vocab_size, channels = words.shape
    _, config, weights = random_model(
        1,
        n_layer=1,
        n_embd=channels,
        n_head=1,
        n_inner=64,
        vocab_size=vocab_size,
        tie_word_embeddings=False,
    )
    packed = pack_nf4(quantize_4bit(words, "nf4", double_quant=double_quant))
    engine = NativeEngine(config, weights | {"lm_head.weight": packed}, isa=isa, threads=1)
    return engine, dequantize_nf4(packed)


@pytest.mark.parametrize("isa", _native.supported_isas())
@pytest.mark.parametrize(("channels", "words"), [(64, 37), (128, 16), (192, 33), (320, 1), (1600, 40)])
def test_products_are_within_the_bound_of_their_roundings(channels: int, words: int, isa: str) -> None:
    rng = np.random.default_rng(channels)
    weights = rng.standard_normal((words, channels)) * rng.choice([1e-3, 1.0, 50.0], (words, 1))
    states = (rng.standard_normal((29, channels)) * rng.choice([1e-6, 1.0, 1e6], (29, 1))).astype(np.float32)
    states[3] = 0
    engine, values = head_model(weights.astype(np.float32), isa, double_quant=channels != 320)
    got = engine.head(states).astype(np.float64)
    exact = states @ values.astype(np.float64)
    bound = 0.0
    for start in range(0, channels, 64):
        x, w = np.abs(states[:, start : start + 64]).astype(np.float64), np.abs(values[start : start + 64])
        # The scale is at least the largest magnitude; double quantisation may have made it smaller than a weight was.
        scale = w.max(axis=0) / 0.69
        bound = bound + x.max(axis=1, keepdims=True) / 65534 * 1.01 * (w.sum(axis=0) + 64 * 3.51e-4 * scale)
        bound = bound + 3.51e-4 * x.sum(axis=1, keepdims=True) * scale + x @ w * 2.0**-20
    assert (np.abs(got - exact) <= bound).all()


@pytest.mark.parametrize("isa", _native.supported_isas())
def test_codes_and_activations_of_the_full_range_do_not_overflow(isa: str) -> None:
    words = np.ones((32, 128), np.float32)
    words[1::2] = -1
    states = np.ones((13, 128), np.float32) * np.float32(3)
    states[5:] *= -1
    engine, _ = head_model(words, isa, double_quant=False)
    assert relative_error(engine.head(states), states @ words.T) < 1e-6


@pytest.mark.parametrize("isa", _native.supported_isas())
def test_activations_that_are_not_finite_spoil_their_own_row_only(isa: str) -> None:
    rng = np.random.default_rng(0)
    words, states = (rng.standard_normal((n, 128)).astype(np.float32) for n in (20, 6))
    engine, _ = head_model(words, isa)
    clean = engine.head(states)
    for value in (np.nan, np.inf, -np.inf):
        states[2, 79] = value
        got = engine.head(states)
        assert np.isnan(got[2]).all()
        assert np.array_equal(np.delete(got, 2, axis=0), np.delete(clean, 2, axis=0))


@pytest.mark.parametrize("seed", range(8))
def test_float32_gives_the_bits_of_the_dequantised_weights(seed: int) -> None:
    rng = random.Random(seed)
    if seed < 5:
        config, weights = nf4_model(7500 + seed)
        packed = in_nf4(weights, rng)
    else:  # int8 in shapes that fill no groups and panels
        _, config, weights = random_model(7500 + seed, n_positions=60)
        packed = {
            name: packed_int8(array.T if name in WORDS else array) if is_matrix(name) else array
            for name, array in weights.items()
        }
    exact = NativeEngine(config, dequantized(packed), threads=rng.randint(1, 2))
    prompts = random_prompts(config, rng)
    expected = all_outputs(exact, prompts)
    for isa in _native.supported_isas():
        engine = NativeEngine(config, packed, threads=rng.randint(1, 2), isa=isa, compute="float32")
        for got, want in zip(all_outputs(engine, prompts), expected, strict=True):
            assert np.array_equal(got, want)
        sequence = engine.new_sequence()
        single = [engine.forward([(sequence, [id])], phase="decode")[0].logits for id in prompts[0][:8]]
        assert np.array_equal(np.stack(single), expected[0][:8])
        assert np.array_equal(engine.head(expected[1]), expected[0])


@pytest.mark.parametrize("seed", range(6))
def test_results_are_those_of_the_dequantised_weights(seed: int) -> None:
    config, weights = nf4_model(7300 + seed, activation_function="gelu_new")
    packed = in_nf4(weights, random.Random(seed))
    prompts = [[random.Random(seed).randrange(config.vocab_size) for _ in range(30)]]
    engine = NativeEngine(config, packed, compute="int16")
    exact = NativeEngine(config, dequantized(packed))
    for got, want in zip(all_outputs(engine, prompts), all_outputs(exact, prompts), strict=True):
        assert (
            relative_error(got, want) < 2e-2
        )  # roundings of 4e-4 a weight, through up to four random blocks


def perplexity(engine: NativeEngine) -> float:
    found = total(score(engine, AutoTokenizer.from_pretrained(builtin.path()), [EXCERPT])).perplexity
    assert found is not None
    return found


def test_perplexity_is_that_of_the_dequantised_weights() -> None:
    engine = load_engine(builtin.path(), quant="nf4")
    assert isinstance(engine, NativeEngine) and engine.quant == "nf4"
    exact = perplexity(NativeEngine(engine.config, dequantized(engine._weights)))
    assert perplexity(engine) == pytest.approx(exact, rel=1e-3)
    assert perplexity(load_engine(builtin.path(), quant="nf4", compute="int16")) == pytest.approx(
        exact, rel=1e-4
    )


def test_a_head_in_nf4_costs_more_perplexity_than_it_is_worth() -> None:
    checkpoint = open_checkpoint(builtin.path())
    plain = perplexity(load_engine(checkpoint))
    mixed = load_engine(checkpoint, quant="nf4")
    head = {"lm_head.weight": packed_nf4(np.ascontiguousarray(checkpoint.float32("wte.weight").T))}
    whole = NativeEngine(mixed.config, mixed._weights | head)
    assert 1.02 < perplexity(mixed) / plain < 1.05
    assert perplexity(whole) - plain > 1.3 * (perplexity(mixed) - plain)


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_folders_of_bitsandbytes_run_with_their_own_codes(
    tmp_path: Path, double_quant: bool, dtype: str
) -> None:
    config, weights = nf4_model(7400, n_embd=128, n_inner=None, tie_word_embeddings=True)
    save_checkpoint(tmp_path / "model", weights, config)
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double_quant
    )
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "model", quantization_config=settings, dtype=dtype)
    model.save_pretrained(tmp_path / "quantized")
    engine = load_engine(tmp_path / "quantized", engine="native")
    assert isinstance(engine, NativeEngine) and engine.quant == "nf4"
    weights = engine._weights
    assert not isinstance(weights["wte.weight"], (PackedInt8, PackedNf4))
    plain = model.dequantize(torch.float32).state_dict()
    exact = {name: plain[f"transformer.{name}"].numpy() for name in weights if f"transformer.{name}" in plain}
    for name, array in weights.items():
        if isinstance(array, PackedNf4):
            # bitsandbytes rounds to the dtype that the weights had; we take what the codes say.
            rounded = torch.from_numpy(dequantize_nf4(array)).to(getattr(torch, dtype))
            assert np.array_equal(rounded.float().numpy(), exact[name])
    prompts = [[3, 1, 4, 1, 5]]
    ours, theirs = all_outputs(engine, prompts), all_outputs(NativeEngine(config, exact), prompts)
    assert relative_error(ours[0], theirs[0]) < 2e-2
    wide = load_engine(tmp_path / "quantized", dtype="float32", quant="nf4")
    assert np.array_equal(all_outputs(wide, prompts)[0], ours[0])


def test_what_cannot_run_is_refused(tmp_path: Path) -> None:
    config, weights = nf4_model(3, n_embd=80, n_head=2)
    save_checkpoint(tmp_path / "odd", weights, config)
    with pytest.raises(EngineError, match=r"c_attn\.weight: the matrix has 80 inputs; NF4 needs a multiple"):
        load_engine(tmp_path / "odd", quant="nf4")
    config, weights = nf4_model(4, n_embd=64, n_head=2, n_inner=64)
    save_checkpoint(tmp_path / "model", weights, config)
    with pytest.raises(EngineError, match="leave dtype out"):
        load_engine(tmp_path / "model", quant="nf4", dtype="float32")
    for options, message in [
        ({"load_in_8bit": True}, "in llm_int8; NF4 is the only such format"),
        ({"load_in_4bit": True}, "in fp4; NF4 is the only such format"),
    ]:
        settings = BitsAndBytesConfig(**options)
        GPT2LMHeadModel.from_pretrained(tmp_path / "model", quantization_config=settings).save_pretrained(
            tmp_path / "other"
        )
        with pytest.raises(EngineError, match=message):
            load_engine(tmp_path / "other", engine="native")
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    for source, target in (("odd", "odd4"), ("model", "model4")):
        GPT2LMHeadModel.from_pretrained(tmp_path / source, quantization_config=settings).save_pretrained(
            tmp_path / target
        )
    with pytest.raises(EngineError, match="n_embd is 80, and native products in NF4 need a multiple of 64"):
        load_engine(tmp_path / "odd4", engine="native")
    with pytest.raises(EngineError, match="quant is 'int8', but the folder is in nf4"):
        load_engine(tmp_path / "model4", quant="int8")
    packed = packed_nf4(weights["h.0.mlp.c_fc.weight"])
    for name, message in [
        ("h.0.mlp.c_proj.weight", "is not a C-contiguous array of"),
        ("wte.weight", "embeddings may be floats or int8"),
    ]:
        other = packed if name != "wte.weight" else packed_nf4(np.ascontiguousarray(weights[name].T))
        if name != "wte.weight":
            other = packed_nf4(np.ascontiguousarray(np.repeat(weights["h.0.mlp.c_fc.weight"], 2, axis=1)))
        with pytest.raises(EngineError, match=message):
            NativeEngine(config, weights | {name: other})


def test_checkpoints_quantise_as_their_values(tmp_path: Path) -> None:
    config, weights = nf4_model(11, tie_word_embeddings=False)
    save_checkpoint(tmp_path / "model", weights, config, dtypes="BF16")
    checkpoint = open_checkpoint(tmp_path / "model")
    engine = load_engine(checkpoint, quant="nf4")
    values = {name: checkpoint.float32(name) for name in checkpoint.names()}
    packed = {
        name: packed_int8(array.T) if name in WORDS else packed_nf4(array) if is_matrix(name) else array
        for name, array in values.items()
    }
    expected = NativeEngine(config, packed)
    assert (engine.quant, expected.quant) == ("nf4", "nf4")
    for got, want in zip(all_outputs(engine, [[1, 2, 0]]), all_outputs(expected, [[1, 2, 0]]), strict=True):
        assert np.array_equal(got, want)
