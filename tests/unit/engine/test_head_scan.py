"""The scan of the head: its bounds hold, and generate() gives the ids that it gives without."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from gpt2kit import _native, builtin, load_engine
from gpt2kit.checkpoint import BFloat16Array
from gpt2kit.config import GPT2Config
from gpt2kit.engine import NativeEngine, native
from gpt2kit.errors import EngineError, GenerationError

Weights = dict[str, np.ndarray]
DTYPES = ("float32", "float16", "bfloat16")


@pytest.fixture(autouse=True)
def scan_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "SCANNED_HEAD_BYTES", 0)
    monkeypatch.setattr(native, "SCAN_AFTER_PASSES", 0)


def small_model(
    seed: int, *, vocab_size: int = 2000, n_embd: int = 24, head: np.ndarray | None = None
) -> tuple[GPT2Config, Weights]:
    """A model of one block; head (V, C) is tied to the embeddings unless it is given."""
    rng = np.random.default_rng(seed)
    config = GPT2Config(
        n_layer=1,
        n_head=2,
        n_embd=n_embd,
        n_positions=64,
        vocab_size=vocab_size,
        tie_word_embeddings=head is None,
        eos_token_id=vocab_size - 1,
        bos_token_id=vocab_size - 1,
    )
    shapes = {
        "wte.weight": (vocab_size, n_embd),
        "wpe.weight": (64, n_embd),
        "h.0.attn.c_attn.weight": (n_embd, 3 * n_embd),
        "h.0.attn.c_proj.weight": (n_embd, n_embd),
        "h.0.mlp.c_fc.weight": (n_embd, 4 * n_embd),
        "h.0.mlp.c_proj.weight": (4 * n_embd, n_embd),
    }
    weights: Weights = {name: rng.normal(0, 0.3, shape) for name, shape in shapes.items()}
    for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
        weights[f"h.0.{name}.bias"] = rng.normal(0, 0.3, shapes[f"h.0.{name}.weight"][1])
    for name in ("h.0.ln_1", "h.0.ln_2", "ln_f"):
        weights[f"{name}.weight"] = rng.normal(1, 0.2, n_embd)
        weights[f"{name}.bias"] = rng.normal(0, 0.3, n_embd)
    if head is not None:
        weights["lm_head.weight"] = head
    return config, {name: array.astype(np.float32) for name, array in weights.items()}


def stored(array: np.ndarray, dtype: str) -> Any:
    if dtype == "bfloat16":
        found: Any = BFloat16Array((array.view(np.uint32) >> 16).astype(np.uint16))
        found.bits.flags.writeable = False
        return found
    found = array.astype(dtype)
    found.flags.writeable = False
    return found


def values_of(array: Any) -> np.ndarray:
    if isinstance(array, BFloat16Array):
        return (array.bits.astype(np.uint32) << 16).view(np.float32)
    return array


def pair(config: GPT2Config, weights: Weights, dtype: str = "float32", **options: Any) -> list[NativeEngine]:
    """The same engine without and with the scan."""
    arrays = {name: stored(array, dtype) for name, array in weights.items()}
    return [NativeEngine(config, arrays, head_scan=is_on, **options) for is_on in (False, True)]


def outcome(engine: NativeEngine, prompts: list[list[int]], **options: Any) -> Any:
    try:
        return engine.generate(prompts, **options)
    except GenerationError as error:
        return str(error)


def random_options(rng: random.Random, vocab_size: int) -> dict[str, Any]:
    options: dict[str, Any] = {"max_new_tokens": 12}
    if rng.random() < 0.6:
        options |= {"do_sample": True, "top_k": rng.choice([1, 2, 5, 20, 40]), "seed": rng.randrange(99)}
        options["temperature"] = rng.choice([1.0, 0.7, 3.0, 0.01, 900.0])
        if rng.random() < 0.5:
            options |= {"top_p": 0.8, "min_p": 0.05}
        if rng.random() < 0.3:
            options |= {"typical_p": 0.9, "epsilon_cutoff": 0.001}
        options["num_return_sequences"] = rng.choice([1, 2])
    if rng.random() < 0.4:
        options["repetition_penalty"] = rng.choice([0.5, 1.3, 5.0])
    if rng.random() < 0.3:
        options["no_repeat_ngram_size"] = rng.choice([1, 2])
    if rng.random() < 0.3:
        options["bad_words_ids"] = [[rng.randrange(vocab_size)], [3, rng.randrange(vocab_size)]]
    if rng.random() < 0.3:
        options["min_new_tokens"] = 6
    if rng.random() < 0.3:
        options["prompt_lookup_num_tokens"] = 3
    return options


def hostile_head(kind: str, vocab_size: int, n_embd: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    head = rng.normal(0, 0.3, (vocab_size, n_embd)).astype(np.float32)
    first = head[: vocab_size // 2]
    match kind:
        case "duplicates":
            head[vocab_size // 2 :] = first
        case "near ties":
            noise = rng.normal(0, 1e-7, first.shape).astype(np.float32)
            head[vocab_size // 2 :] = first * (1 + noise)
        case "equal":
            head[:] = head[0]
        case "zeros":
            head[::3] = 0
        case "all zeros":
            head[:] = 0
        case "common direction":
            head += rng.normal(0, 100, n_embd).astype(np.float32)
        case "one huge channel":
            head[:, 3] *= 1e5
        case "huge rows":
            head[7::100] *= 1e30
        case "overflow":
            head[11] = 3e38
        case "tiny":
            head *= 1e-38
        case "tiny rows":
            head[::2] *= 1e-42
        case "nan":
            head[17, 4] = np.nan
        case "infinite":
            head[17, 4] = np.inf
        case "minus infinite":
            head[::5, 4] = -np.inf
        case _:
            raise ValueError(kind)
    return head


UNUSABLE = ("overflow", "nan", "infinite", "minus infinite")  # heads that have no form in 8 bits
HOSTILE = (
    *("duplicates", "near ties", "equal", "zeros", "all zeros", "common direction", "one huge channel"),
    *("huge rows", "tiny", "tiny rows"),
)


@pytest.mark.parametrize("seed", range(16))
def test_the_scan_changes_no_id(seed: int) -> None:
    rng = random.Random(seed)
    vocab_size, n_embd = rng.choice([1600, 2000, 2011]), rng.choice([8, 24, 70, 130])
    config, weights = small_model(seed, vocab_size=vocab_size, n_embd=n_embd)
    isa = rng.choice(_native.supported_isas())
    plain, scanning = pair(config, weights, rng.choice(DTYPES), threads=rng.randint(1, 3), isa=isa)
    for _ in range(6):
        options = random_options(rng, vocab_size)
        prompts = [
            [rng.randrange(vocab_size) for _ in range(rng.randint(1, 9))]
            for _ in range(rng.choice([1, 1, 2, 9]))
        ]
        assert outcome(plain, prompts, **options) == outcome(scanning, prompts, **options), options
    assert scanning.head_scan_counts["rows"] > 0


@pytest.mark.parametrize("kind", [*HOSTILE, *UNUSABLE])
def test_hostile_heads_change_no_id(kind: str) -> None:
    head = hostile_head(kind, 2000, 24)
    config, weights = small_model(1, head=head)
    rng = random.Random(kind)
    plain, scanning = pair(config, weights, threads=2)
    for _ in range(8):
        options = random_options(rng, 2000)
        prompts = [[rng.randrange(2000) for _ in range(5)]]
        assert outcome(plain, prompts, **options) == outcome(scanning, prompts, **options), options
    assert (scanning.head_scan_counts["rows"] > 0) == (kind not in UNUSABLE)


def states_of(kind: str, rng: np.random.Generator, n_embd: int) -> np.ndarray:
    states = rng.normal(0, 1, (5, n_embd)).astype(np.float32)
    match kind:
        case "large":
            states *= 1e6
        case "outlier":
            states[:, 1] = 3000
        case "tiny":
            states *= 1e-35
        case "sparse":
            states[:, 1:] = 0
    return states


@pytest.mark.parametrize("states_kind", ["normal", "large", "outlier", "tiny", "sparse"])
@pytest.mark.parametrize("n_embd", [2, 64, 200])
def test_bounds_hold_and_are_close(states_kind: str, n_embd: int) -> None:
    rng = np.random.default_rng(n_embd)
    for kind in ("normal", *HOSTILE):
        head = hostile_head(kind if n_embd > 4 and kind != "normal" else "zeros", 500, n_embd)
        config, weights = small_model(0, vocab_size=500, n_embd=n_embd, head=head)
        for dtype in DTYPES if kind in ("normal", "near ties") else DTYPES[:1]:
            engine = pair(config, weights, dtype, threads=1)[1]
            states = states_of(states_kind, rng, n_embd)
            upper = engine._model.head_upper_bounds(states)
            assert upper is not None
            wide = values_of(stored(head, dtype)).astype(np.float64)
            with np.errstate(all="ignore"):
                exact = states.astype(np.float64) @ wide.astype(np.float64).T
                logits = engine.head(states)
                assert not (logits > upper).any(), kind
                assert not (exact > upper).any(), kind
                assert not (np.isnan(logits) & (upper < np.inf)).any(), kind
            if kind == "normal":  # 1/254 of the largest of a group, which is at most 5 times the mean
                lengths = np.linalg.norm(states, axis=1)[:, None] * np.linalg.norm(wide, axis=1)
                assert (upper - exact <= 0.03 * lengths + 1e-20).all()


def test_it_knows_states_that_are_no_numbers() -> None:
    config, weights = small_model(3)
    engine = pair(config, weights, threads=1)[1]
    states = np.zeros((2, 24), np.float32)
    states[0, 3], states[1, 5] = np.nan, np.inf
    upper = engine._model.head_upper_bounds(states)
    assert upper is not None and not (upper < np.inf).any()


def test_guesses_are_checked_by_the_scan() -> None:
    config, weights = small_model(8)
    plain, scanning = pair(config, weights, threads=2)
    prompt = [[*range(20, 28)] * 4]
    for options in (
        {},
        {"repetition_penalty": 1.5},
        {"do_sample": True, "top_k": 2, "temperature": 0.1, "seed": 1},
    ):
        options = {"prompt_lookup_num_tokens": 3, "max_new_tokens": 20, **options}
        assert outcome(plain, prompt, **options) == outcome(scanning, prompt, **options)
    assert scanning.head_scan_counts["rows"] > 20


def test_few_logits_are_computed_and_too_many_are_given_up() -> None:
    config, weights = small_model(2)
    _, scanning = pair(config, weights, threads=1)
    scanning.generate([[1, 2]], max_new_tokens=20, eos_token_id=None)
    counts = scanning.head_scan_counts
    assert counts["rows"] == 20 and 20 <= counts["logits"] < 100 and counts["full_shares"] == 0
    assert counts["bytes"] == 2000 * (64 + 2 + 8)

    config, weights = small_model(2, head=hostile_head("equal", 2000, 24))
    _, scanning = pair(config, weights, threads=1)
    scanning.generate([[1, 2]], max_new_tokens=60, eos_token_id=None)
    counts = scanning.head_scan_counts
    # In full at once, then again after pauses of 8, 16 and 32 tokens.
    assert counts["rows"] == counts["full_shares"] == 4


def test_what_needs_all_logits_is_not_scanned() -> None:
    config, weights = small_model(4)
    _, scanning = pair(config, weights, threads=1)
    for options in (
        {"top_k": 0},
        {"top_k": 0, "top_p": 0.9},
        {"top_k": 1000},
        {"top_k": 5, "temperature": 5000.0},
    ):
        scanning.generate([[1]], max_new_tokens=4, do_sample=True, **options)
    assert scanning.head_scan_counts["rows"] == 0


def test_weights_that_may_change_are_not_scanned() -> None:
    config, weights = small_model(5)
    with pytest.raises(EngineError, match="never changes"):
        NativeEngine(config, weights, head_scan=True)
    engine = NativeEngine(config, weights, threads=1)
    before = engine.generate([[1, 2]], max_new_tokens=40)
    weights["wte.weight"][:] = np.roll(weights["wte.weight"], 7, axis=0)
    assert engine.generate([[1, 2]], max_new_tokens=40) != before
    assert engine.generate([[1, 2]], max_new_tokens=40) == NativeEngine(config, weights).generate(
        [[1, 2]], max_new_tokens=40
    )


@pytest.mark.parametrize("dtype", ["float32", "auto", "bfloat16"])
def test_a_checkpoint_is_scanned_unless_told_not_to(dtype: str) -> None:
    prompt = [list(range(100, 110))]
    with_scan = load_engine(builtin.path(), dtype=dtype, threads=1)
    without = load_engine(builtin.path(), dtype=dtype, threads=1, head_scan=False)
    for options in ({"do_sample": False}, {"do_sample": True, "top_k": 40, "seed": 3}):
        ids = with_scan.generate(prompt, max_new_tokens=40, **options)
        assert ids == without.generate(prompt, max_new_tokens=40, **options)
    counts = with_scan.head_scan_counts
    assert counts["rows"] >= 70 and counts["full_shares"] == 0
    # A trained model's states leave few words in doubt: one or two for greedy search, some 15 beside the top 40.
    assert counts["logits"] < 80 * 60
    assert without.head_scan_counts["bytes"] == 0
    # The pages of the file that were given back are there again.
    np.testing.assert_array_equal(with_scan.weights["wte.weight"], without.weights["wte.weight"])
    with pytest.raises(ValueError, match="read-only"):
        with_scan.weights["wte.weight"][0] = 0


def test_the_copy_is_made_when_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "SCAN_AFTER_PASSES", 10)
    config, weights = small_model(6)
    _, scanning = pair(config, weights, threads=1)
    scanning.generate([[1]], max_new_tokens=10, eos_token_id=None)
    assert scanning.head_scan_counts["bytes"] == 0
    scanning.generate([[1]], max_new_tokens=3, eos_token_id=None)
    assert scanning.head_scan_counts["rows"] == 3
    assert scanning.first_layers(1).generate([[1]], max_new_tokens=2) is not None

    monkeypatch.setattr(native, "SCANNED_HEAD_BYTES", 1 << 24)
    _, scanning = pair(config, weights, threads=1)
    scanning.generate([[1]], max_new_tokens=20)
    assert scanning.head_scan_counts["bytes"] == 0


def test_the_torch_engine_refuses_the_option() -> None:
    pytest.importorskip("torch")
    with pytest.raises(EngineError, match="head_scan is for the native engine"):
        load_engine(builtin.path(), engine="torch", head_scan=False)
