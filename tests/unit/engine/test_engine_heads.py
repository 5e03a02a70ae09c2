"""Heads on engines: the same numbers alone and in a batch, with and without torch."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest

from fakes import FakeEngine, write_tiny_model
from gpt2kit.checkpoint import open_checkpoint
from gpt2kit.engine import load_engine
from gpt2kit.engine.heads import EngineWithHead, Head, batches_by_length, load_head
from gpt2kit.errors import CheckpointError, EngineError
from gpt2kit.generation import Output

ROWS = [[5, 6, 7], [8], list(range(100)), [9, 10], [3] * 128, [11]]


@pytest.fixture(scope="module", params=["score", "classifier", "qa_outputs"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("headed") / request.param
    write_tiny_model(folder, head=request.param, num_labels=3)
    return folder


def network(folder, **options):
    checkpoint = open_checkpoint(folder)
    return EngineWithHead(load_engine(checkpoint), load_head(checkpoint, folder.name, "a task"), **options)


@pytest.mark.parametrize("batch_tokens", [1, 40, 512, 10_000])
def test_a_batch_gives_each_row_to_the_bit_what_it_gives_alone(folder, batch_tokens):
    alone = [network(folder).run([row])[0] for row in ROWS]
    together = network(folder, batch_tokens=batch_tokens).run(ROWS)
    for a, b, row in zip(alone, together, ROWS, strict=True):
        assert len(a) == len(row)
        np.testing.assert_array_equal(a, b)


def test_the_last_position_is_the_last_of_all_positions(folder):
    net = network(folder)
    for every, last in zip(net.run(ROWS), net.run(ROWS, last=True), strict=True):
        np.testing.assert_array_equal(every[-1:], last)


def test_a_torch_model_gives_the_same_to_rounding(folder):
    pytest.importorskip("torch")
    from gpt2kit import model as models
    from gpt2kit.engine.heads import HEAD_CLASSES
    from gpt2kit.engine.torch_heads import ModuleWithHead

    module = getattr(models, HEAD_CLASSES[folder.name]).from_pretrained(folder)
    for last in (False, True):
        expected = network(folder).run(ROWS, last=last)
        for tokens in (1, 4096):
            given = ModuleWithHead(module, folder.name, batch_tokens=tokens).run(ROWS, last=last)
            for a, b in zip(expected, given, strict=True):
                np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5)


def test_a_torch_model_must_be_in_eval_mode_and_have_the_head(folder):
    pytest.importorskip("torch")
    from gpt2kit.engine.torch_heads import ModuleWithHead
    from gpt2kit.model import GPT2Model

    with pytest.warns(UserWarning, match="not used"):
        module = GPT2Model.from_pretrained(folder)
    with pytest.raises(EngineError, match="is a GPT2Model, which has no 'score'; give a GPT2ForSequenceCl"):
        ModuleWithHead(module, "score")
    with pytest.raises(EngineError, match="training mode"):
        ModuleWithHead(module.train())


def test_without_a_head_there_are_the_hidden_states(folder):
    checkpoint = open_checkpoint(folder)
    engine = load_engine(checkpoint)
    (hidden,) = EngineWithHead(engine).run([[5, 6, 7]])
    (output,) = engine.forward([(engine.new_sequence(), [5, 6, 7])], logits=None, hidden=True)
    np.testing.assert_array_equal(hidden, output.hidden)


def test_sequences_are_freed_also_after_a_failure():
    class Failing(FakeEngine):
        def forward(self, work, **_):
            if len(work) == 1:
                raise EngineError("broken")
            return [Output(hidden=np.zeros((len(ids), 8), dtype=np.float32)) for _, ids in work]

    engine = Failing()
    with pytest.raises(EngineError, match="broken"):
        EngineWithHead(engine, batch_tokens=4).run([[1, 2], [1, 2], [3]])
    assert engine.num_alive == 0


def test_a_missing_head_names_the_task_and_the_class_it_needs(tmp_path):
    write_tiny_model(tmp_path)
    with pytest.raises(CheckpointError, match=r"no tensor 'score.weight': sorting needs a GPT2ForSequenceCl"):
        load_head(open_checkpoint(tmp_path), "score", "sorting")


def test_a_head_for_other_labels_than_the_configuration_s_is_refused(tmp_path):
    write_tiny_model(tmp_path, head="classifier", num_labels=3)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"2": "LABEL_2"', '"2": "LABEL_2", "3": "more"'))
    with pytest.raises(CheckpointError, match="has 3 outputs, but the configuration has 4 labels"):
        load_head(open_checkpoint(tmp_path), "classifier", "x")


def test_a_head_is_a_linear_map():
    head = Head(np.array([[1, 2], [0, -1]], dtype=np.float32), np.array([0.5, 0], dtype=np.float32))
    np.testing.assert_array_equal(head(np.array([[3, 4]], dtype=np.float32)), [[11.5, -4.0]])


@pytest.mark.parametrize("seed", range(20))
def test_batches_hold_every_row_once_longest_first_and_few_tokens(seed):
    rng = random.Random(seed)
    lengths = [rng.randint(1, 50) for _ in range(rng.randint(0, 40))]
    limit = rng.randint(1, 120)
    batches = list(batches_by_length(lengths, limit))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(flat, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= limit


def test_no_torch_is_imported(folder):
    code = (
        "import sys\nfrom gpt2kit.checkpoint import open_checkpoint\nfrom gpt2kit.engine import load_engine\n"
        "from gpt2kit.engine.heads import EngineWithHead, load_head\n"
        f"checkpoint = open_checkpoint({str(folder)!r})\n"
        f"EngineWithHead(load_engine(checkpoint), load_head(checkpoint, {folder.name!r}, 'x')).run([[1, 2]])\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
