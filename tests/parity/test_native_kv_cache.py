"""kv_cache_dtype: bits of the reference everywhere, and of float32 attention over what the cache holds."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from gpt2kit import AutoTokenizer, _native, builtin, load_engine, pipeline, score
from gpt2kit.checkpoint import from_float32, save_checkpoint, to_float32
from gpt2kit.engine import NativeEngine
from gpt2kit.errors import EngineError, PipelineError
from gpt2kit.scoring import total
from random_models import random_model, relative_error

SHORT = ["bfloat16", "int8"]
ALL = ["float32", *SHORT]


def random_ids(rng: random.Random, vocab_size: int, length: int) -> list[int]:
    return [rng.randrange(vocab_size) for _ in range(length)]


def in_int8(rows: np.ndarray) -> np.ndarray:
    """Round rows of the last axis as kernels_attention.h says."""
    scale = np.abs(rows).max(axis=-1, keepdims=True) / np.float32(127)
    scale = (scale.view(np.uint32) & np.uint32(0xFFFFFF00)).view(np.float32)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    return np.rint(rows * inverse) * scale


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "int8":
        return in_int8(array)
    return to_float32(from_float32(array, "BF16"), "BF16") if dtype == "bfloat16" else array


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("seed", range(10))
def test_every_instruction_set_batch_and_chunk_gives_the_same_bits(seed: int, dtype: str) -> None:
    _, config, weights = random_model(8000 + seed, n_positions=75)
    rng = random.Random(seed)
    prompts = [random_ids(rng, config.vocab_size, rng.randint(1, 75)) for _ in range(3)]

    def run(engine: NativeEngine) -> list[np.ndarray]:
        work = [(engine.new_sequence(), ids) for ids in prompts]
        outputs = engine.forward(work, logits="all", attentions=True)
        return [array for out in outputs for array in (out.logits, out.attentions)]

    engines = [
        NativeEngine(config, weights, threads=rng.randint(1, 3), isa=isa, kv_cache_dtype=dtype)
        for isa in _native.supported_isas()
    ]
    assert engines[0].isa == "reference" and engines[0].kv_cache_dtype == dtype
    expected = run(engines[0])
    for engine in engines:
        for want, got in zip(expected, run(engine), strict=True):
            assert np.array_equal(got, want)
        sequence = engine.new_sequence()
        cuts = sorted({0, len(prompts[0]), *(rng.randint(0, len(prompts[0])) for _ in range(4))})
        pieces = [prompts[0][a:b] for a, b in itertools.pairwise(cuts)]
        chunked = [engine.forward([(sequence, piece)], logits="all")[0].logits for piece in pieces]
        assert np.array_equal(np.concatenate(chunked), expected[0])


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("seed", range(12))
def test_keys_and_values_are_rounded_as_the_format_says(seed: int, dtype: str) -> None:
    _, config, weights = random_model(8100 + seed, n_layer=1)
    ids = random_ids(random.Random(seed), config.vocab_size, config.n_positions)
    found = {}
    for isa, name in [("reference", dtype), (None, dtype), (None, "float32")]:
        engine = NativeEngine(config, weights, threads=2, isa=isa, kv_cache_dtype=name)
        sequence = engine.new_sequence()
        engine.forward([(sequence, ids)], logits=None)
        found[isa, name] = sequence.keys_values()
    for exact, got, reference in zip(found[None, "float32"], found[None, dtype], found["reference", dtype],
                                     strict=True):  # fmt: skip
        assert np.array_equal(got, rounded(exact, dtype))
        assert np.array_equal(got, reference)
        step = np.abs(exact).max(axis=-1, keepdims=True) / 127 if dtype == "int8" else np.abs(exact) / 128
        assert (np.abs(got - exact) <= 0.5001 * step + 1e-37).all()


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("seed", range(16))
def test_attention_is_that_of_float32_over_what_the_cache_holds(seed: int, dtype: str) -> None:
    """Queries are a token whose own key and value, biases of whole numbers, every format holds exactly."""
    _, config, weights = random_model(8200 + seed, n_layer=1, n_positions=120, vocab_size=50)
    rng = random.Random(seed)
    weights = {name: array.copy() for name, array in weights.items()}
    size = config.n_embd // config.n_head
    bias = np.random.default_rng(seed).integers(-127, 128, (3, config.n_head, size)).astype(np.float32)
    bias[:, :, 0] = 127
    bias[0] *= np.float32(0.3 / 127 / size)  # queries: small, so that all positions count
    weights["h.0.attn.c_attn.bias"] = bias.reshape(-1)
    weights["h.0.ln_1.bias"] = np.zeros_like(weights["h.0.ln_1.bias"])
    weights["wte.weight"][0] = 0
    weights["wpe.weight"][:] = 0
    queries = rng.choice([1, 2, 11, 24, 25, 60])
    prompt = random_ids(rng, 50, rng.randint(1, 120 - queries))

    exact = NativeEngine(config, weights, threads=1)
    for isa in _native.supported_isas():
        engine = NativeEngine(config, weights, threads=1, isa=isa, kv_cache_dtype=dtype)
        sequence = engine.new_sequence()
        engine.forward([(sequence, prompt)], logits=None)
        same = exact.new_sequence_from(*sequence.keys_values())
        [want] = exact.forward([(same, [0] * queries)], logits="all", attentions=True)
        [got] = engine.forward([(sequence, [0] * queries)], logits="all", attentions=True)
        assert np.array_equal(got.logits, want.logits)
        assert np.array_equal(got.attentions, want.attentions)
        assert all(
            np.array_equal(a, b) for a, b in zip(sequence.keys_values(), same.keys_values(), strict=True)
        )


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("seed", range(6))
def test_logits_stay_near_those_of_float32(seed: int, dtype: str) -> None:
    _, config, weights = random_model(
        8300 + seed, n_positions=60, n_embd=60, n_head=3, initializer_range=0.1, scale_attn_weights=True
    )
    ids = random_ids(random.Random(seed), config.vocab_size, 60)
    logits = {}
    for name in ("float32", dtype):
        engine = NativeEngine(config, weights, threads=1, kv_cache_dtype=name)
        logits[name] = engine.forward([(engine.new_sequence(), ids)], logits="all")[0].logits
    assert 0 < relative_error(logits[dtype], logits["float32"]) < 0.03


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("seed", range(6))
def test_copies_forks_and_cut_sequences_go_on_as_the_whole(seed: int, dtype: str) -> None:
    _, config, weights = random_model(8400 + seed, n_positions=80)
    rng = random.Random(seed)
    ids = random_ids(rng, config.vocab_size, 80)
    cut = rng.randrange(1, 80)
    engine = NativeEngine(config, weights, threads=2, kv_cache_dtype=dtype)
    whole = engine.new_sequence()
    expected = engine.forward([(whole, ids)], logits="all")[0].logits[cut:]
    start = engine.new_sequence()
    engine.forward([(start, ids[:cut])], logits=None)
    copies = {
        "fork": start.fork(),
        "keys and values": engine.new_sequence_from(*start.keys_values()),
        "cut whole": whole,
        "refilled": engine.new_sequence(),
    }
    engine.forward([(copies["refilled"], ids[::-1])], logits=None)
    copies["refilled"].truncate(0)
    engine.forward([(copies["refilled"], ids[:cut])], logits=None)
    whole.truncate(cut)
    for name, sequence in copies.items():
        logits = engine.forward([(sequence, ids[cut:])], logits="all")[0].logits
        assert np.array_equal(logits, expected), name


@pytest.mark.parametrize("isa", _native.supported_isas())
@pytest.mark.parametrize("dtype", SHORT)
def test_what_is_not_finite_does_not_become_a_number(isa: str, dtype: str) -> None:
    _, config, weights = random_model(3, n_embd=48, n_head=2, n_layer=1, n_positions=20)
    engine = NativeEngine(config, weights, threads=1, isa=isa, kv_cache_dtype=dtype)
    keys, values = np.random.default_rng(0).standard_normal((2, 1, 2, 5, 24)).astype(np.float32)
    for bad in (np.nan, np.inf):
        spoilt = values.copy()
        spoilt[0, 1, 3, 23] = bad
        sequence = engine.new_sequence_from(keys, spoilt)
        assert not np.isfinite(sequence.keys_values()[1][0, 1, 3]).all()
        assert np.isfinite(np.delete(sequence.keys_values()[1], 3, axis=2)).all()
        assert np.isnan(engine.forward([(sequence, [1])])[0].logits).all()
    tiny = engine.new_sequence_from(keys, np.full_like(values, 1e-40)).keys_values()
    assert (tiny[1] == 0).all() and (tiny[0] != 0).any()


@pytest.mark.parametrize("dtype", SHORT)
def test_every_way_of_generating_gives_a_row_what_it_gets_alone(dtype: str) -> None:
    _, config, weights = random_model(8500, n_layer=2, n_embd=60, n_head=3, n_positions=90, vocab_size=40)
    rng = random.Random(0)
    prompts = [random_ids(rng, 39, length) for length in (3, 30, 17)]
    engine = NativeEngine(config, weights, threads=2, kv_cache_dtype=dtype)
    plain = engine.generate(prompts, 40, eos_token_id=None)
    for options in [
        {},
        {"num_beams": 3},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"prompt_lookup_num_tokens": 4},
        {"do_sample": True, "num_return_sequences": 2, "seed": 3},
    ]:
        together = engine.generate(prompts, 40, eos_token_id=None, **options)
        per_prompt = len(together) // len(prompts)
        for row, ids in enumerate(prompts):
            alone = engine.generate([ids], 40, eos_token_id=None, **options)
            assert together[row * per_prompt : (row + 1) * per_prompt] == alone, options
        if "prompt_lookup_num_tokens" in options:
            assert together == plain


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_is_what_nbytes_says() -> None:
    _, config, weights = random_model(
        8600,
        n_layer=4,
        n_embd=768,
        n_head=12,
        n_inner=8,
        n_positions=1024,
        vocab_size=8,
        bos_token_id=7,
        eos_token_id=7,
    )
    numbers = np.random.default_rng(0).standard_normal((4, 12, 512, 64)).astype(np.float32)
    sizes = {}
    for dtype in ALL:
        engine = NativeEngine(config, weights, threads=1, kv_cache_dtype=dtype)
        assert engine.new_sequence().nbytes == 0
        sequence = engine.new_sequence_from(numbers, numbers)
        sizes[dtype] = sequence.nbytes
        before = resident_bytes()
        copies = [sequence.fork() for _ in range(4)]
        grown = (resident_bytes() - before) / len(copies)
        assert 0.9 * sequence.nbytes < grown < 1.1 * sequence.nbytes + 4 * 12 * 2 * 4096
        for copy in copies:
            copy.free()
        assert copies[0].nbytes == 0
    assert sizes["float32"] == 2 * numbers.nbytes == 2 * sizes["bfloat16"]
    assert sizes["int8"] == sizes["float32"] // 4 + 2 * 4 * 12 * 512 * 4


@pytest.mark.slow
def test_perplexity_stays() -> None:
    tokenizer = AutoTokenizer.from_pretrained(builtin.path())
    engines = {dtype: load_engine(builtin.path(), kv_cache_dtype=dtype) for dtype in ALL}
    prompt = tokenizer("In the beginning")["input_ids"]
    rows = engines["float32"].generate(
        [prompt], 250, num_return_sequences=20, do_sample=True, temperature=1.0, top_k=0, seed=1
    )
    texts = [tokenizer.decode(row) for row in rows]
    found = {name: total(score(engine, tokenizer, texts)).perplexity for name, engine in engines.items()}
    assert found["bfloat16"] != found["float32"] != found["int8"]
    assert abs(found["bfloat16"] / found["float32"] - 1) < 5e-4
    assert abs(found["int8"] / found["float32"] - 1) < 2e-3


def test_other_names_and_engines_are_refused(tmp_path: Path) -> None:
    _, config, weights = random_model(3, n_embd=16, n_head=2, n_layer=1)
    save_checkpoint(tmp_path / "model", weights, config)
    with pytest.raises(
        EngineError, match="kv_cache_dtype is 'int4'; it must be 'float32', 'bfloat16' or 'int8'"
    ):
        load_engine(tmp_path / "model", kv_cache_dtype="int4")
    with pytest.raises(EngineError, match="kv_cache_dtype is for the native engine"):
        load_engine(tmp_path / "model", engine="torch", kv_cache_dtype="int8")
    assert load_engine(tmp_path / "model").kv_cache_dtype == "float32"
    assert load_engine(tmp_path / "model", kv_cache_dtype="int8").first_layers(1).kv_cache_dtype == "int8"
    pipe = pipeline("text-generation", builtin.path(), kv_cache_dtype="bfloat16")
    assert pipe.engine.kv_cache_dtype == "bfloat16"
    with pytest.raises(PipelineError, match="kv_cache_dtype='int8' is for the native engine"):
        pipeline("feature-extraction", builtin.path(), engine="torch", kv_cache_dtype="int8")
