"""Log-probabilities of ids against Transformers, their definition and, to the bit, themselves."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from fakes import FakeEngine
from gpt2kit.engine import NativeEngine
from gpt2kit.errors import EngineError, GPT2Error, ScoringError
from gpt2kit.generation import Output
from gpt2kit.scoring import log_probabilities, resolve_window
from random_models import random_model

# Logits agree to 2e-5 of the largest one; a log-probability is a difference of two.
TOLERANCE = 2e-4


class WatchedEngine(FakeEngine):
    """A FakeEngine that gives all logits and notes what each call was asked for."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.calls: list[tuple[str | None, list[int]]] = []
        self.max_alive = 0

    def forward(self, work, *, logits="last", hidden=False):
        assert len({id(sequence) for sequence, _ in work}) == len(work)
        self.calls.append((logits, [len(ids) for _, ids in work]))
        self.max_alive = max(self.max_alive, self.num_alive)
        outputs = []
        for sequence, ids in work:
            start = sequence.length
            sequence.ids.extend(ids)
            assert sequence.length <= self.config.n_positions
            rows = [self.logits(sequence.ids[: start + n + 1]) for n in range(len(ids))]
            outputs.append(Output(logits=np.stack(rows) if logits == "all" else None))
        return outputs


def random_rows(rng: random.Random, vocab_size: int, longest: int) -> list[list[int]]:
    lengths = [rng.randint(0, longest) for _ in range(rng.randint(1, 6))]
    return [[rng.randrange(vocab_size) for _ in range(length)] for length in lengths]


def by_definition(logits_after, row: list[int], window: int, stride: int) -> list[float]:
    """Score each token with the first window that holds it; logits_after(ids) are those of the next token."""
    values = []
    for i in range(1, len(row)):
        begin = next(begin for begin in range(0, len(row), stride) if begin + window > i)
        scores = logits_after(row[begin:i]).astype(np.float64)
        values.append(scores[row[i]] - np.logaddexp.reduce(scores))
    return values


@pytest.mark.parametrize("seed", range(40))
def test_windows_are_what_the_definition_says(seed: int) -> None:
    rng = random.Random(seed)
    engine = WatchedEngine()
    rows = random_rows(rng, engine.config.vocab_size, 150)
    window = rng.randint(2, engine.config.n_positions)
    stride = rng.randint(1, window - 1)
    batch_tokens = rng.choice([1, 3, 17, 256])
    results = log_probabilities(engine, rows, window=window, stride=stride, batch_tokens=batch_tokens)
    for row, values in zip(rows, results, strict=True):
        assert values.dtype == np.float64
        assert values.tolist() == pytest.approx(by_definition(engine.logits, row, window, stride), abs=1e-12)
    assert engine.num_alive == 0
    assert engine.max_alive <= batch_tokens + 1
    assert all(sum(lengths) <= batch_tokens for _, lengths in engine.calls)


def test_logits_are_made_only_for_what_is_scored() -> None:
    engine = WatchedEngine()
    [values] = log_probabilities(engine, [list(range(50)) * 6], stride=7)
    num_scored = sum(sum(lengths) for logits, lengths in engine.calls if logits == "all")
    assert num_scored == len(values) == 299


def test_short_rows_share_a_call() -> None:
    engine = WatchedEngine()
    log_probabilities(engine, [[1, 2, 3], [4], [], [5, 6]], batch_tokens=8)
    assert engine.calls == [("all", [2, 1])]


@pytest.mark.parametrize("seed", range(20))
def test_perplexity_is_exp_of_transformers_loss(seed: int) -> None:
    torch.set_num_threads(1)
    oracle, config, weights = random_model(seed)
    rng = random.Random(seed)
    rows = [
        [rng.randrange(config.vocab_size) for _ in range(rng.randint(2, config.n_positions))]
        for _ in range(3)
    ]
    for row, values in zip(rows, log_probabilities(NativeEngine(config, weights), rows), strict=True):
        with torch.no_grad():
            loss = oracle(torch.tensor([row]), labels=torch.tensor([row])).loss.item()
        assert -values.mean() == pytest.approx(loss, rel=TOLERANCE)


@pytest.mark.parametrize("seed", range(20))
def test_sliding_windows_cost_what_the_loop_of_transformers_guide_gives(seed: int) -> None:
    torch.set_num_threads(1)
    oracle, config, weights = random_model(100 + seed, n_positions=random.Random(seed).randint(3, 40))
    rng = random.Random(seed)
    row = [rng.randrange(config.vocab_size) for _ in range(rng.randint(41, 120))]
    stride = rng.randint(1, config.n_positions - 1)
    nats, num_scored, previous_end = 0.0, 0, 0
    for begin in range(0, len(row), stride):
        end = min(begin + config.n_positions, len(row))
        ids = torch.tensor([row[begin:end]])
        labels = ids.clone()
        labels[:, : -(end - previous_end)] = -100
        count = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            nats += oracle(ids, labels=labels).loss.item() * count
        num_scored += count
        previous_end = end
        if end == len(row):
            break
    [values] = log_probabilities(NativeEngine(config, weights), [row], stride=stride)
    assert len(values) == num_scored == len(row) - 1
    assert -values.sum() == pytest.approx(nats, rel=TOLERANCE)


@pytest.mark.parametrize("seed", range(15))
def test_batch_equals_single_to_the_bit(seed: int) -> None:
    _, config, weights = random_model(200 + seed)
    rng = random.Random(seed)
    engine = NativeEngine(config, weights, threads=rng.randint(1, 3))
    rows = random_rows(rng, config.vocab_size, 3 * config.n_positions)
    together = log_probabilities(engine, rows, batch_tokens=rng.choice([5, 64, 1000]))
    for row, values in zip(rows, together, strict=True):
        [alone] = log_probabilities(engine, [row], batch_tokens=rng.choice([1, 128]))
        assert np.array_equal(values, alone)


def test_the_torch_engine_agrees_with_the_native_one() -> None:
    from gpt2kit.engine.torch import TorchEngine
    from gpt2kit.model import GPT2LMHeadModel

    torch.set_num_threads(1)
    oracle, config, weights = random_model(7, n_positions=20)
    model = GPT2LMHeadModel(config).eval()
    model.load_state_dict(oracle.state_dict())
    rows = random_rows(random.Random(7), config.vocab_size, 60)
    native = log_probabilities(NativeEngine(config, weights), rows)
    for ours, theirs in zip(log_probabilities(TorchEngine(model), rows), native, strict=True):
        assert np.allclose(ours, theirs, rtol=0, atol=TOLERANCE * max(1.0, np.abs(theirs).max(initial=0)))


def test_rows_without_context_have_no_values() -> None:
    engine = WatchedEngine()
    assert [values.tolist() for values in log_probabilities(engine, [[], [3]])] == [[], []]
    assert log_probabilities(engine, []) == []
    assert engine.calls == []


def test_large_logits_neither_overflow_nor_lose_the_small_ones() -> None:
    engine = WatchedEngine()
    logits = np.zeros(engine.config.vocab_size, dtype=np.float32)
    logits[4] = 3e38
    engine.logits = lambda ids: logits
    [values] = log_probabilities(engine, [[0, 4, 5]])
    assert values.tolist() == [0.0, -float(np.float32(3e38))]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_model_that_gives_no_numbers_is_refused_and_leaks_nothing(bad: float) -> None:
    engine = WatchedEngine()
    engine.logits = lambda ids: np.full(engine.config.vocab_size, bad, dtype=np.float32)
    with pytest.raises(EngineError, match="no probabilities"):
        log_probabilities(engine, [[1, 2, 3], [4, 5]], batch_tokens=3)
    assert engine.num_alive == 0


def test_window_and_stride_have_defaults() -> None:
    engine = FakeEngine()
    assert resolve_window(engine) == (64, 32)
    assert resolve_window(engine, window=3) == (3, 1)
    assert resolve_window(engine, np.int64(10), 9) == (10, 9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 65}, "window is 65; it must be from 2 to 64"),
        ({"window": 1}, "window is 1; it must be from 2"),
        ({"window": -1}, "window is -1"),
        ({"window": 3.0}, "window is 3.0; it must be an integer"),
        ({"window": True}, "window is True; it must be an integer"),
        ({"stride": 0}, "stride is 0; it must be from 1 to 63"),
        ({"stride": -3}, "stride is -3"),
        ({"stride": 64}, "stride is 64; it must be from 1 to 63, less than the window"),
        ({"stride": 10**30}, "it must be from 1 to 63"),
        ({"stride": "8"}, "stride is '8'; it must be an integer"),
        ({"window": 8, "stride": 8}, "from 1 to 7"),
        ({"batch_tokens": 0}, "batch_tokens is 0; it must be at least 1"),
        ({"batch_tokens": None}, "batch_tokens is None; it must be an integer"),
        ({"batch_tokens": 1.5}, "it must be an integer"),
    ],
)
def test_options_out_of_range_are_one_clear_error(options, message) -> None:
    engine = WatchedEngine()
    with pytest.raises(ScoringError, match=message) as caught:
        log_probabilities(engine, [[1, 2]], **options)
    assert isinstance(caught.value, (GPT2Error, ValueError))
    assert engine.calls == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1, 50]], "row 0 has token id 50; the model's go from 0 to 49"),
        ([[1, 2], [-1]], "row 1 has token id -1"),
        ([[2**70, 1]], "row 0 has token id 1180591620717411303424"),
        ([["a", "b"]], "row 0 must be a list of token ids"),
        ([[1, 2.5]], "row 0 must be a list of token ids"),
        ([7], "row 0 must be a list of token ids"),
        ([[1], None], "row 1 must be a list of token ids"),
    ],
)
def test_ids_that_are_none_are_one_clear_error(rows, message) -> None:
    engine = WatchedEngine()
    with pytest.raises(ScoringError, match=message):
        log_probabilities(engine, rows)
    assert engine.calls == []


def test_a_model_of_one_position_can_score_nothing() -> None:
    engine = FakeEngine()
    engine.config.n_positions = 1
    with pytest.raises(ScoringError, match="n_positions is 1; a model needs at least 2"):
        log_probabilities(engine, [[1]])
