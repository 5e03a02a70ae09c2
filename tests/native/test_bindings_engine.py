"""What Python may hand to the C++ engine: everything else is one clear error and changes nothing."""

from __future__ import annotations

import gc
import os
import signal
import threading

import numpy as np
import pytest

from gpt2kit import _native
from gpt2kit.config import GPT2Config
from gpt2kit.engine import NativeEngine
from gpt2kit.errors import EngineError
from random_models import random_model


@pytest.fixture(scope="module")
def engine() -> NativeEngine:
    _, config, weights = random_model(5, n_positions=30, vocab_size=50, n_embd=16, n_head=2, n_layer=2)
    return NativeEngine(config, weights, threads=2)


ODD_IDS = [[-1], [50], [2**31], [2**63], [-(2**63)], [1.5], ["a"], [None], [[1]], [], [0] * 31, "ab", None, 3]


@pytest.mark.parametrize("ids", ODD_IDS, ids=repr)
def test_bad_ids_are_refused_and_the_sequence_is_unchanged(engine: NativeEngine, ids: object) -> None:
    sequence = engine.new_sequence()
    engine.forward([(sequence, [1, 2, 3])])
    with pytest.raises((EngineError, TypeError)):
        engine.forward([(sequence, ids)])  # type: ignore[list-item]
    assert sequence.length == 3


def test_sequences_freed_foreign_or_used_twice_are_refused(engine: NativeEngine) -> None:
    _, config, weights = random_model(6, n_positions=30, vocab_size=50, n_embd=16, n_head=2)
    other = NativeEngine(config, weights, threads=1)
    with pytest.raises(EngineError, match="another model"):
        engine.forward([(other.new_sequence(), [1])])
    sequence = engine.new_sequence()
    with pytest.raises(EngineError, match="twice"):
        engine.forward([(sequence, [1]), (sequence, [2])])
    sequence.free()
    with pytest.raises(EngineError, match=r"after free\(\)"):
        engine.forward([(sequence, [1])])
    with pytest.raises(ValueError, match=r"after free\(\)"):
        sequence.fork()


@pytest.mark.parametrize("length", [-1, 4, 2**40])
def test_truncate_out_of_range_is_refused(engine: NativeEngine, length: int) -> None:
    sequence = engine.new_sequence()
    engine.forward([(sequence, [1, 2, 3])])
    with pytest.raises(ValueError, match="from 0 to that"):
        sequence.truncate(length)
    assert sequence.length == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("h.1.mlp.c_fc.bias"), "no tensor 'h.1.mlp.c_fc.bias'"),
        (lambda w: w.update({"wte.weight": w["wte.weight"][:-1]}), "'wte.weight' has shape"),
        (lambda w: w.update({"wte.weight": w["wte.weight"].astype(np.float64)}), "'wte.weight' must be"),
        (lambda w: w.update({"wpe.weight": np.asfortranarray(w["wpe.weight"])}), "'wpe.weight' must be"),
        (lambda w: w.update({"ln_f.weight": None}), "'ln_f.weight' must be"),
        (lambda w: w.update({"ln_f.weight": w["ln_f.weight"].reshape(1, -1)}), "'ln_f.weight' has shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, message: str) -> None:
    _, config, weights = random_model(5, n_embd=16, n_head=2, n_layer=2)
    change(weights)
    with pytest.raises(EngineError, match=message.replace("(", r"\(")):
        NativeEngine(config, weights)


def test_configurations_without_a_kernel_are_refused() -> None:
    for options, message in [
        ({"activation_function": "mish"}, "'mish' has no native kernel"),
        ({"add_cross_attention": True}, "add_cross_attention"),
    ]:
        with pytest.raises(EngineError, match=message):
            NativeEngine(GPT2Config(**options), {})
    _, config, weights = random_model(5)
    for threads in (0, -1, 2000):
        with pytest.raises(EngineError, match="threads"):
            NativeEngine(config, weights, threads=threads)
    with pytest.raises(EngineError, match="unknown instruction set 'sse9'"):
        NativeEngine(config, weights, isa="sse9")


@pytest.mark.parametrize("value", [-1, 2**63, 2**70, 1.5, "7", None])
def test_integers_of_the_loop_are_checked(engine: NativeEngine, value: object) -> None:
    good: dict[str, object] = {
        "prompts": [[1, 2]], "max_new_tokens": [2], "min_new_tokens": [0], "seeds": [0], "num_return_sequences": 1,
        "eos_token_ids": [], "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0,
        "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0, "bad_words_ids": [], "max_rows": 8, "on_token": None,
        "num_assistant_tokens": 0, "max_matching_ngram_size": 2, "assistant": None, "is_constant_schedule": True,
        "assistant_confidence_threshold": 0.0, "clock": None,
    }  # fmt: skip
    [(new_ids, guessed, right)] = engine._model.generate(**good)
    assert (len(new_ids), guessed, right) == (2, 0, 0)
    for change in [
        {"prompts": [[value]]}, {"max_new_tokens": [value]}, {"seeds": [value]} if value != 2**63 else {"max_rows": value},
        {"num_return_sequences": value}, {"top_k": value} if value != 2**63 else {"top_k": -5},
        {"no_repeat_ngram_size": value}, {"bad_words_ids": [[value]]}, {"max_rows": value}, {"max_new_tokens": []},
        {"temperature": float("nan")}, {"repetition_penalty": float("inf")}, {"top_p": -0.5}, {"min_p": float("nan")},
        {"num_assistant_tokens": -1}, {"max_matching_ngram_size": 0}, {"assistant_confidence_threshold": 1.5},
        {"assistant": "gpt2"}, {"clock": 3, "num_assistant_tokens": 2},
    ]:  # fmt: skip
        with pytest.raises((ValueError, TypeError)):
            engine._model.generate(**(good | change))


def test_weights_outlive_their_owner() -> None:
    _, config, weights = random_model(5, n_embd=16, n_head=2, vocab_size=50)
    engine = NativeEngine(config, {name: array.copy() for name, array in weights.items()}, threads=1)
    kept = NativeEngine(config, weights, threads=1)
    expected = kept.forward([(kept.new_sequence(), [1, 2])])[0].logits
    junk = [np.full((100, 100), np.nan, np.float32) for _ in range(50)]
    assert np.array_equal(engine.forward([(engine.new_sequence(), [1, 2])])[0].logits, expected)
    assert len(junk) == 50


@pytest.mark.parametrize("isa", _native.supported_isas())
def test_weights_may_start_at_any_address(isa: str) -> None:
    _, config, weights = random_model(3)
    aligned = NativeEngine(config, weights, threads=1)

    def move(array: np.ndarray) -> np.ndarray:
        buffer = np.zeros(array.nbytes + 3, np.uint8)
        moved = buffer[3:].view(np.float32).reshape(array.shape)
        moved[...] = array
        return moved

    engine = NativeEngine(config, {name: move(array) for name, array in weights.items()}, threads=1, isa=isa)
    expected = aligned.forward([(aligned.new_sequence(), [0, 1])], logits="all")[0].logits
    assert np.array_equal(engine.forward([(engine.new_sequence(), [0, 1])], logits="all")[0].logits, expected)


def test_calls_from_many_threads_take_turns(engine: NativeEngine) -> None:
    expected = engine.generate([[1, 2, 3]], max_new_tokens=20)
    results: list[list[list[int]]] = []
    workers = [
        threading.Thread(target=lambda: results.append(engine.generate([[1, 2, 3]], max_new_tokens=20)))
        for _ in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [expected] * 8


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_computes_alone_and_ends() -> None:
    _, config, weights = random_model(5, n_positions=500, vocab_size=5000, n_embd=64, n_head=4)
    engine = NativeEngine(config, weights, threads=2)
    prompt = [i % 5000 for i in range(400)]  # enough work for both threads
    expected = engine.forward([(engine.new_sequence(), prompt)])[0].logits
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        logits = engine.forward([(engine.new_sequence(), prompt)])[0].logits
        same = np.array_equal(logits, expected)
        del engine
        gc.collect()
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(engine.forward([(engine.new_sequence(), prompt)])[0].logits, expected)


def test_engines_come_and_go() -> None:
    _, config, weights = random_model(5, n_embd=16, n_head=2, vocab_size=50)
    for _ in range(100):
        engine = NativeEngine(config, weights, threads=3)
        engine.forward([(engine.new_sequence(), [1, 2])])


def test_isa_is_named() -> None:
    assert _native.isa() in _native.supported_isas()
