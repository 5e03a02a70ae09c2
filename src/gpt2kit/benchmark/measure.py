"""measure(): an engine's speed, and the machine's limits in the same minute.

Machines are shared and drift, so every round times everything in turn, and how much of a limit is reached is
computed round by round; medians of the rounds are reported.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2kit import _native
from gpt2kit.benchmark.memory import peak_rss_bytes
from gpt2kit.benchmark.work import Work, decode_work, prefill_work, streamed
from gpt2kit.config import GPT2Config
from gpt2kit.engine import NativeEngine
from gpt2kit.errors import EngineError, GenerationError
from gpt2kit.generation import generate

ARITHMETIC = ("float32", "bfloat16", "int8")
_PASSES = 5  # of a limit in each round; the best one counts, as a limit is what is possible
_CHECKED_TOKENS = 16


@dataclass(frozen=True)
class Settings:
    """What to time.

    prompt: tokens of the prompt whose speed is measured.
    decode: new tokens, after `context` others.
    batch: how many rows to decode together, besides one; 1 for none.
    repeats: rounds, each of which times everything once.
    """

    prompt: int
    decode: int
    context: int
    batch: int = 1
    repeats: int = 5

    @classmethod
    def fitting(
        cls,
        config: GPT2Config,
        *,
        prompt: int | None = None,
        decode: int | None = None,
        context: int | None = None,
        batch: int = 1,
        repeats: int = 5,
    ) -> Settings:
        """Fill in what is None: 512, 128 and 128, or what the model can hold where that is less.

        Raises GenerationError for lengths that n_positions has no room for, and for counts below 1.
        """
        room = config.n_positions - 1  # one position is left for the token that follows
        prompt = min(512, room) if prompt is None else prompt
        decode = min(128, max(room // 2, 1)) if decode is None else decode
        context = min(128, max(room - decode, 1)) if context is None else context
        for name, value in [("prompt", prompt), ("decode", decode), ("context", context), ("batch", batch),
                            ("repeats", repeats)]:  # fmt: skip
            if value < 1:
                raise GenerationError(f"{name} is {value}; it must be at least 1")
        if prompt > room:
            raise GenerationError(
                f"prompt is {prompt}; the model has {config.n_positions} positions and one is for the token that "
                f"follows, so it must be at most {room}"
            )
        if context + decode > room:
            raise GenerationError(
                f"context {context} and decode {decode} make {context + decode} tokens; the model has "
                f"{config.n_positions} positions and one is for the token that follows, so they must be at most {room}"
            )
        return cls(prompt, decode, context, batch, repeats)


@dataclass(frozen=True)
class Limits:
    """What the machine did in each round: bytes read in a second, and operations for each kind of arithmetic."""

    read_bytes_per_s: list[float]
    operations_per_s: dict[str, list[float]]


@dataclass(frozen=True)
class Phase:
    """The speed of one kind of run in each round, and the least work that a token of it takes."""

    tokens_per_s: list[float]
    work: Work

    @property
    def median(self) -> float:
        """Tokens per second."""
        return statistics.median(self.tokens_per_s)

    def reached(self, limits: Limits) -> dict[str, float]:
        """Return which part of each limit is reached, 1 being all: "read" and the kinds of arithmetic."""
        pairs = {"read": (self.work.read_bytes, limits.read_bytes_per_s)}
        pairs |= {kind: (self.work.operations, rates) for kind, rates in limits.operations_per_s.items()}
        return {
            name: statistics.median(
                speed * work / limit for speed, limit in zip(self.tokens_per_s, rates, strict=True)
            )
            for name, (work, rates) in pairs.items()
        }


@dataclass(frozen=True)
class Report:
    """What measure() found.

    batch: total tokens per second of all rows, or None where settings.batch is 1.
    first_token_s: from a prompt of settings.prompt tokens to the first new one, a median.
    peak_rss_bytes: of the process from loading to the first round, with the weights' pages and the cache of the batch.
    """

    settings: Settings
    prefill: Phase
    decode: Phase
    batch: Phase | None
    limits: Limits
    first_token_s: float
    peak_rss_bytes: int


def measure(engine: NativeEngine, settings: Settings) -> Report:
    """Check an engine's answers, then time it; raises EngineError when the answers cannot be right.

    Prompts are random and new in every round. Generation is greedy and no token ends it.
    """
    rng = np.random.default_rng(0)

    def prompts(count: int, length: int) -> list[list[int]]:
        ids: list[list[int]] = rng.integers(0, engine.config.vocab_size, (count, length)).tolist()
        return ids

    check(engine, prompts(settings.batch, settings.context), min(settings.decode, _CHECKED_TOKENS))

    def prefill_s() -> float:
        [ids] = prompts(1, settings.prompt)
        return _seconds(lambda: engine.forward([(engine.new_sequence(), ids)]))

    def first_token_s() -> float:
        ids = prompts(1, settings.prompt)
        return _seconds(lambda: _greedy(engine, ids, 1))

    head_copy_bytes: dict[int, int] = {}  # by the number of rows, where a copy was read in place of the head

    def steps_s(rows: int) -> float:
        """All steps but the first of a generation, which is the prompt's."""
        ids = prompts(rows, settings.context)
        scanned = engine.head_scan_counts["rows"]
        whole = _seconds(lambda: _greedy(engine, ids, settings.decode + 1))
        counts = engine.head_scan_counts
        head_copy_bytes[rows] = counts["bytes"] if counts["rows"] > scanned else 0
        ids = prompts(rows, settings.context)
        return max(whole - _seconds(lambda: _greedy(engine, ids, 1)), 1e-9)

    runs: dict[str, Callable[[], float]] = {
        "prefill": prefill_s,
        "first_token": first_token_s,
        "decode": lambda: steps_s(1),
    }
    if settings.batch > 1:
        runs["batch"] = lambda: steps_s(settings.batch)
    for run in runs.values():  # a first time that does not count: pages, threads, the processor's clock
        run()
    # Everything that is timed has run once; what measuring the limits takes is not the engine's.
    peak = peak_rss_bytes()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    limits = Limits([], {})
    for _ in range(settings.repeats):
        for name, run in runs.items():
            seconds[name].append(run())
        _measure_limits(engine, limits)

    config, weights = engine.config, engine.weights
    past = settings.context + (settings.decode - 1) / 2

    def decode_phase(name: str, rows: int) -> Phase:
        speeds = [rows * settings.decode / s for s in seconds[name]]
        work = decode_work(config, weights, past, rows, engine.kv_cache_dtype, head_copy_bytes[rows])
        return Phase(speeds, work / rows)

    return Report(
        settings=settings,
        prefill=Phase(
            [settings.prompt / s for s in seconds["prefill"]],
            prefill_work(config, weights, settings.prompt) / settings.prompt,
        ),
        decode=decode_phase("decode", 1),
        batch=decode_phase("batch", settings.batch) if settings.batch > 1 else None,
        limits=limits,
        first_token_s=statistics.median(seconds["first_token"]),
        peak_rss_bytes=peak,
    )


def check(engine: NativeEngine, prompts: list[list[int]], num_tokens: int) -> None:
    """Raise EngineError unless logits are finite and generating gives the same ids again, alone and together."""
    [output] = engine.forward([(engine.new_sequence(), prompts[0])])
    if output.logits is None or not np.isfinite(output.logits).all():
        raise EngineError("logits are not finite; the weights are damaged, and there is nothing to time")
    together = _greedy(engine, prompts, num_tokens)
    for row in {0, len(prompts) - 1}:
        alone = _greedy(engine, [prompts[row]], num_tokens)
        if alone != [together[row]]:
            raise EngineError(
                f"the same prompt gave {together[row]} and then {alone[0]}; there is nothing to time"
            )
    best = int(output.logits.argmax())
    if together[0][0] != best:
        raise EngineError(
            f"the first new token is {together[0][0]}, but {best} is the most probable; there is nothing to time"
        )


def _greedy(engine: NativeEngine, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
    rows = generate(engine, prompts, max_new_tokens=num_tokens, do_sample=False, max_rows=len(prompts))
    return [row.ids for row in rows]


def _measure_limits(engine: NativeEngine, limits: Limits) -> None:
    arrays = streamed(engine.weights)
    limits.read_bytes_per_s.append(max(_native.read_bytes_per_s(arrays, engine.threads, _PASSES)))
    for kind in ARITHMETIC:
        rates = _native.operations_per_s(kind, engine.threads, _PASSES)
        if rates:
            limits.operations_per_s.setdefault(kind, []).append(max(rates))


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
