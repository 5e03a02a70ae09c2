"""Guessing ahead in the native loop: no guess changes a token, and guesses that do not pay are left out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpt2kit.engine import NativeEngine
from gpt2kit.errors import GenerationError
from gpt2kit.generation import generate
from gpt2kit.generation.strategies import choose, speculation
from random_models import random_model


@pytest.fixture(autouse=True)
def native_loop_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the Python loop ran")

    monkeypatch.setattr(speculation.SpeculativeLoop, "__init__", refuse)


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Return a function that sets the clock by which the native loop decides what pays."""
    original = choose.native_guesses

    def use(clock: Any) -> None:
        monkeypatch.setattr(choose, "native_guesses", lambda *given: replace(original(*given), clock=clock))

    return use


def random_clock(rng: random.Random) -> Callable[[], float]:
    """Return a clock by which any pass may be quick or slow, so that guesses of all lengths are planned."""

    def ticks() -> Iterator[float]:
        now = 0.0
        while True:
            now += 10.0 ** rng.uniform(-4, 0)
            yield now

    return ticks().__next__


def make_engine(seed: int, kv_cache_dtype: Any = "float32", **overrides: Any) -> NativeEngine:
    options = {"n_positions": 48, "bos_token_id": 0, "eos_token_id": None} | overrides
    _, config, weights = random_model(seed, **options)
    return NativeEngine(config, weights, threads=1, kv_cache_dtype=kv_cache_dtype)


def random_options(rng: random.Random, vocab_size: int) -> dict[str, Any]:
    options: dict[str, Any] = {"seed": rng.getrandbits(60), "max_new_tokens": rng.randint(1, 30)}
    if rng.random() < 0.6:
        options |= {"do_sample": True, "num_return_sequences": rng.randint(1, 3)}
        options |= {"top_k": rng.choice([0, 3]), "temperature": rng.choice([0.3, 1.0])}
    if rng.random() < 0.5:
        options["eos_token_id"] = [rng.randrange(vocab_size) for _ in range(2)]
        options["min_new_tokens"] = rng.randint(0, 12)
    if rng.random() < 0.3:
        options["repetition_penalty"] = rng.choice([0.7, 1.3])
    if rng.random() < 0.2 and vocab_size > 3:
        options["bad_words_ids"] = [[rng.randrange(vocab_size)]]
    return options


def random_prompts(rng: random.Random, vocab_size: int) -> list[list[int]]:
    """Return prompts that repeat themselves, in part."""
    prompts = []
    for _ in range(rng.randint(1, 5)):
        piece = [rng.randrange(vocab_size) for _ in range(rng.randint(1, 6))]
        prompts.append((piece * 3)[: rng.randint(1, 18)])
    return prompts


def guessing_options(rng: random.Random, engine: NativeEngine, seed: int) -> list[dict[str, Any]]:
    """Return a drafter of each kind: the text, a foreign model, the first layers."""
    other = make_engine(
        seed + 1000, vocab_size=engine.config.vocab_size, n_positions=rng.choice([5, 20, 48]), n_layer=1
    )
    drafted = {
        "num_assistant_tokens": rng.randint(1, 9),
        "assistant_confidence_threshold": rng.choice([0.0, 0.3]),
        "num_assistant_tokens_schedule": rng.choice(["constant", "heuristic", "heuristic_transient"]),
    }
    lookup = {"prompt_lookup_num_tokens": rng.randint(1, 9), "max_matching_ngram_size": rng.randint(1, 4)}
    return [
        lookup,
        {"assistant": other} | drafted,
        {"assistant_early_exit": 1} | drafted,
    ]


@pytest.mark.parametrize("seed", range(24))
def test_guesses_change_no_token(seed: int, set_clock: Any) -> None:
    rng = random.Random(seed)
    slides = seed % 3 == 0
    engine = make_engine(
        seed,
        kv_cache_dtype=rng.choice(["float32", "bfloat16", "int8"]),
        vocab_size=rng.choice([3, 8, 40]),
        n_layer=5,
        n_positions=rng.choice([4, 13, 20]) if slides else 48,
    )
    vocab_size = engine.config.vocab_size
    for _ in range(3):
        options = random_options(rng, vocab_size) | ({"long_generation": "slide"} if slides else {})
        prompts = random_prompts(rng, vocab_size)
        plain = generate(engine, prompts, **options)
        for guessing in guessing_options(rng, engine, seed):
            set_clock(random_clock(rng))
            rows = generate(engine, prompts, max_rows=rng.choice([1, 4, 64]), **options, **guessing)
            assert [row.ids for row in rows] == [row.ids for row in plain], (options, guessing)
            assert [row.finish_reason for row in rows] == [row.finish_reason for row in plain]


def padded_engine(seed: int) -> NativeEngine:
    """Return a model whose blocks after the first add nothing."""
    _, config, weights = random_model(
        seed, n_layer=5, vocab_size=30, n_positions=48, bos_token_id=0, eos_token_id=None
    )
    for name, array in weights.items():
        if name.startswith("h.") and not name.startswith("h.0.") and "c_proj" in name:
            array[:] = 0
    return NativeEngine(config, weights, threads=1)


def test_a_draft_that_is_the_model_is_always_right(set_clock: Any) -> None:
    rng = random.Random(7)
    num_guessed = 0
    for seed in range(10):
        engine = padded_engine(seed)
        set_clock(random_clock(rng))
        rows = generate(
            engine,
            [[1, 2, 3], [4]],
            max_new_tokens=30,
            do_sample=seed % 2 == 0,
            seed=seed,
            assistant_early_exit=1,
            assistant_confidence_threshold=0.0,
        )
        assert all(row.num_right == row.num_guessed for row in rows)
        num_guessed += sum(row.num_guessed for row in rows)
    assert num_guessed > 50


def test_a_text_that_repeats_itself_takes_few_passes(set_clock: Any) -> None:
    engine = repeating_engine(period=3)
    set_clock(iter(range(1000)).__next__)  # every pass takes a second, however many tokens it checks
    [row] = generate(engine, [[0, 1, 2, 0]], max_new_tokens=40, prompt_lookup_num_tokens=10)
    assert row.ids == ([1, 2, 0] * 14)[:40]
    assert row.num_right == row.num_guessed
    assert len(row.ids) - row.num_right <= 8


@pytest.mark.parametrize("stop_after", range(1, 9))
def test_a_callback_may_end_a_row_within_a_guess(stop_after: int, set_clock: Any) -> None:
    engine = repeating_engine(period=4)
    set_clock(iter(range(1000)).__next__)
    seen: list[tuple[int, int, int]] = []

    def on_token(prompt: int, row: int, token_id: int) -> bool:
        seen.append((prompt, row, token_id))
        return prompt == 0 and sum(p == 0 for p, _, _ in seen) == stop_after

    first, second = generate(
        engine,
        [[0, 1, 2, 3, 0], [2, 3, 0, 1, 2]],
        max_new_tokens=20,
        on_token=on_token,
        prompt_lookup_num_tokens=6,
    )
    assert first.ids == [id for prompt, _, id in seen if prompt == 0] == ([1, 2, 3, 0] * 5)[:stop_after]
    assert first.finish_reason == "cancelled"
    assert second.ids == [id for prompt, _, id in seen if prompt == 1] == [3, 0, 1, 2] * 5


def test_an_end_token_ends_a_row_within_a_guess(set_clock: Any) -> None:
    engine = repeating_engine(period=5)
    set_clock(iter(range(1000)).__next__)
    options: dict[str, Any] = {"max_new_tokens": 40, "eos_token_id": 4, "min_new_tokens": 1}
    prompt = [0, 1, 2, 3, 4, 0, 1]
    [row] = generate(engine, [prompt], prompt_lookup_num_tokens=8, **options)
    assert row.ids == [2, 3, 4] == generate(engine, [prompt], **options)[0].ids
    assert row.finish_reason == "stop"


def repeating_engine(period: int) -> NativeEngine:
    """Return a model whose likeliest next token is (id + 1) % period: no blocks that do anything, one-hot words."""
    _, config, weights = random_model(
        0, n_layer=1, n_head=1, n_embd=16, n_inner=4, vocab_size=8, n_positions=64, eos_token_id=None,
        tie_word_embeddings=False,
    )  # fmt: skip
    weights = {name: np.zeros_like(array) for name, array in weights.items()}
    weights["ln_f.weight"][:] = 1
    weights["wte.weight"][:] = np.eye(8, 16)
    for token_id in range(8):
        weights["lm_head.weight"][(token_id + 1) % period, token_id] = 1
    return NativeEngine(config, weights, threads=1)


class TestWhatDoesNotPayIsLeftOut:
    """With the reference kernels a checked token takes as long as another pass, so wrong guesses never pay."""

    @pytest.fixture
    def engine(self) -> NativeEngine:
        _, config, weights = random_model(
            3, n_layer=2, n_head=2, n_embd=32, vocab_size=300, n_positions=400, eos_token_id=None
        )
        return NativeEngine(config, weights, threads=1, isa="reference")

    def test_from_the_text(self, engine: NativeEngine) -> None:
        [row] = generate(
            engine, [list(range(100))], max_new_tokens=300, do_sample=True, temperature=3.0, top_k=0, seed=1,
            prompt_lookup_num_tokens=10,
        )  # fmt: skip
        assert row.num_guessed < 30

    def test_from_a_draft_model(self, engine: NativeEngine) -> None:
        draft = make_engine(5, vocab_size=300, n_positions=400, n_layer=1)
        [row] = generate(
            engine, [list(range(100))], max_new_tokens=300, do_sample=True, temperature=3.0, top_k=0, seed=1,
            assistant=draft, assistant_confidence_threshold=0.0,
        )  # fmt: skip
        assert row.num_guessed < 60


def test_scores_without_a_choice_are_refused_as_without_guesses() -> None:
    engine = repeating_engine(period=3)
    banned = [[token_id] for token_id in range(8)]
    for guessing in ({"prompt_lookup_num_tokens": 3}, {"assistant": engine}):
        with pytest.raises(GenerationError, match="no token"):
            generate(engine, [[0, 1]], bad_words_ids=banned, **guessing)


def test_errors_of_the_clock_are_raised(set_clock: Any) -> None:
    def clock() -> float:
        raise KeyError("stopped")

    set_clock(clock)
    with pytest.raises(KeyError, match="stopped"):
        generate(repeating_engine(3), [[0, 1]], prompt_lookup_num_tokens=2)
