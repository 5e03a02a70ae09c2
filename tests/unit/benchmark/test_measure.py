"""What is timed is checked first, and what is reached of a limit is computed round by round."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2kit.benchmark.measure import Limits, Phase, Settings, check, measure
from gpt2kit.benchmark.memory import peak_rss_bytes
from gpt2kit.benchmark.work import Work
from gpt2kit.config import GPT2Config
from gpt2kit.engine import NativeEngine
from gpt2kit.errors import EngineError, GenerationError
from gpt2kit.generation.protocol import NewTokens
from random_models import random_model


def an_engine() -> NativeEngine:
    _, config, weights = random_model(5, n_positions=30, vocab_size=50, n_embd=16, n_head=2, n_layer=2)
    return NativeEngine(config, weights, threads=1)


def test_each_round_is_held_against_its_own_limits() -> None:
    phase = Phase([10.0, 20.0, 50.0], Work(read_bytes=4, operations=2))
    limits = Limits([80.0, 160.0, 200.0], {"float32": [40.0, 40.0, 50.0]})
    assert phase.median == 20
    assert phase.reached(limits) == {"read": 0.5, "float32": 1.0}


def test_every_round_is_in_the_report() -> None:
    engine = an_engine()
    report = measure(engine, Settings(prompt=9, decode=4, context=5, batch=2, repeats=3))
    assert report.batch is not None
    for phase in (report.prefill, report.decode, report.batch):
        assert len(phase.tokens_per_s) == 3 and min(phase.tokens_per_s) > 0
    assert len(report.limits.read_bytes_per_s) == 3
    assert all(len(rates) == 3 for rates in report.limits.operations_per_s.values())
    assert report.peak_rss_bytes > sum(array.nbytes for array in engine.weights.values())


def test_weights_that_are_not_numbers_are_not_timed() -> None:
    engine = an_engine()
    engine.weights["ln_f.bias"][0] = np.nan
    with pytest.raises(EngineError, match="not finite"):
        measure(engine, Settings(prompt=4, decode=2, context=3))


def test_an_engine_that_changes_its_mind_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = an_engine()
    answers = iter([[NewTokens([1, 2])], [NewTokens([1, 3])]])
    monkeypatch.setattr(NativeEngine, "generate_native", lambda *args, **kwargs: next(answers))
    with pytest.raises(EngineError, match=r"gave \[1, 2\] and then \[1, 3\]"):
        check(engine, [[4, 5]], 2)


def test_an_engine_that_does_not_choose_the_best_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = an_engine()
    [output] = engine.forward([(engine.new_sequence(), [4, 5])])
    worst = int(output.logits.argmin())
    monkeypatch.setattr(NativeEngine, "generate_native", lambda *args, **kwargs: [NewTokens([worst])])
    with pytest.raises(EngineError, match="is the most probable"):
        check(engine, [[4, 5]], 1)


@pytest.mark.parametrize("n_positions", [3, 17, 128, 512, 1024])
def test_default_lengths_fit_every_model(n_positions: int) -> None:
    found = Settings.fitting(GPT2Config(n_positions=n_positions))
    assert 1 <= found.prompt <= min(512, n_positions - 1)
    assert found.context + found.decode <= n_positions - 1


def test_lengths_that_do_not_fit_are_refused() -> None:
    config = GPT2Config(n_positions=64)
    for lengths, message in [
        ({"prompt": 64}, "at most 63"),
        ({"decode": 60, "context": 4}, "make 64 tokens"),
        ({"batch": 0}, "batch is 0"),
        ({"repeats": 0}, "repeats is 0"),
    ]:
        with pytest.raises(GenerationError, match=message):
            Settings.fitting(config, **lengths)


def test_the_peak_only_grows() -> None:
    before = peak_rss_bytes()
    block = np.ones(2**22)
    assert peak_rss_bytes() >= before >= 2**20
    assert block.nbytes == 2**25
