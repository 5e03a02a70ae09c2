import random

import numpy as np
import pytest
import torch

from gpt2kit.checkpoint import open_checkpoint
from gpt2kit.config import GPT2Config
from gpt2kit.engine.torch import TorchEngine
from gpt2kit.errors import EngineError
from gpt2kit.model import GPT2LMHeadModel

TOLERANCE = 2e-5  # of the largest logit; torch's products round as their shapes tell them to


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=97, n_positions=48, n_embd=24, n_layer=3, n_head=3, bos_token_id=0, eos_token_id=0,
        initializer_range=0.2,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


@pytest.fixture
def engine(model) -> TorchEngine:
    return TorchEngine(model)


def expected(model: GPT2LMHeadModel, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def assert_close(got: np.ndarray, want: np.ndarray) -> None:
    assert got.dtype == np.float32 and got.shape == want.shape
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


@pytest.mark.parametrize("seed", range(10))
def test_a_ragged_batch_gives_what_each_row_alone_gives(engine, model, seed: int) -> None:
    rng = random.Random(seed)
    rows = [[rng.randrange(97) for _ in range(rng.randrange(1, 40))] for _ in range(rng.randrange(1, 6))]
    sequences = [engine.new_sequence() for _ in rows]
    done = [0] * len(rows)
    # Rows advance by chunks of their own sizes, and not in every call.
    while any(n < len(row) for n, row in zip(done, rows, strict=True)):
        chosen = [i for i, row in enumerate(rows) if done[i] < len(row) and rng.random() < 0.8]
        ends = {i: min(len(rows[i]), done[i] + rng.choice([1, 1, 2, 7, 30])) for i in chosen}
        outputs = engine.forward([(sequences[i], rows[i][done[i] : ends[i]]) for i in chosen], logits="all")
        for i, output in zip(chosen, outputs, strict=True):
            assert_close(output.logits, expected(model, rows[i])[done[i] : ends[i]])
            done[i] = ends[i]
            assert sequences[i].length == ends[i]


def test_last_all_and_hidden_agree(engine, model) -> None:
    ids = [5, 6, 7, 8]

    def run(**options):
        return engine.forward([(engine.new_sequence(), ids), (engine.new_sequence(), ids[:2])], **options)

    last, every, none = run(), run(logits="all", hidden=True), run(logits=None, hidden=True)
    assert last[0].hidden is None and none[0].logits is None
    for row, length in enumerate((4, 2)):
        assert last[row].logits.shape == (97,)
        assert every[row].logits.shape == (length, 97)
        assert every[row].hidden.shape == (length, 24)
        assert_close(last[row].logits, every[row].logits[-1])
        assert_close(none[row].hidden @ model.lm_head.weight.detach().numpy().T, every[row].logits)


def test_a_fork_continues_on_its_own(engine, model) -> None:
    trunk = engine.new_sequence()
    engine.forward([(trunk, [1, 2, 3])])
    branch = trunk.fork()
    a, b = engine.forward([(trunk, [4, 5]), (branch, [6])])
    assert_close(a.logits, expected(model, [1, 2, 3, 4, 5])[-1])
    assert_close(b.logits, expected(model, [1, 2, 3, 6])[-1])
    assert (trunk.length, branch.length) == (5, 4)


def test_truncate_goes_back(engine, model) -> None:
    sequence = engine.new_sequence()
    engine.forward([(sequence, [1, 2, 3, 4])])
    sequence.truncate(2)
    assert sequence.length == 2
    assert_close(engine.forward([(sequence, [9])])[0].logits, expected(model, [1, 2, 9])[-1])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "at least one"),
        ([97], "id 97 is out of range; vocab_size is 97"),
        ([3, -1, 5], "id -1 is out of range"),
        ([1] * 47, "49 tokens; n_positions is 48"),
    ],
)
def test_bad_ids_are_refused_and_change_nothing(engine, ids, message) -> None:
    good, bad = engine.new_sequence(), engine.new_sequence()
    engine.forward([(good, [1]), (bad, [1, 2])])
    with pytest.raises(EngineError, match=message):
        engine.forward([(good, [5]), (bad, ids)])
    assert (good.length, bad.length) == (1, 2)


def test_bad_sequences_are_refused(engine, model) -> None:
    sequence = engine.new_sequence()
    with pytest.raises(EngineError, match="twice"):
        engine.forward([(sequence, [1]), (sequence, [2])])
    with pytest.raises(EngineError, match="another engine"):
        TorchEngine(model).forward([(sequence, [1])])
    with pytest.raises(EngineError, match="cannot truncate to 1"):
        sequence.truncate(1)
    sequence.free()
    for use in (sequence.fork, lambda: sequence.truncate(0), lambda: engine.forward([(sequence, [1])])):
        with pytest.raises(EngineError, match="freed"):
            use()


def test_bad_choices_are_refused(engine) -> None:
    assert engine.forward([]) == []
    with pytest.raises(EngineError, match="logits is 'first'"):
        engine.forward([(engine.new_sequence(), [1])], logits="first")


def test_a_model_in_training_is_refused(model) -> None:
    with pytest.raises(EngineError, match="training mode"):
        TorchEngine(GPT2LMHeadModel(model.config))


def test_rows_give_their_own_hidden_states_and_attentions(engine, model) -> None:
    prompts = [[3, 1, 4], [1, 5, 9, 2, 6]]
    sequences = [engine.new_sequence() for _ in prompts]
    engine.forward([(sequence, ids[:2]) for sequence, ids in zip(sequences, prompts, strict=True)])
    work = [(sequence, ids[2:]) for sequence, ids in zip(sequences, prompts, strict=True)]
    outputs = engine.forward(work, hidden_states=True, attentions=True)
    for ids, output in zip(prompts, outputs, strict=True):
        with torch.no_grad():
            wanted = model(torch.tensor([ids]), output_hidden_states=True, output_attentions=True)
        states = torch.stack(wanted.hidden_states)[:, 0, 2:].numpy()
        weights = torch.stack(wanted.attentions)[:, 0, :, 2:].numpy()
        np.testing.assert_allclose(output.hidden_states, states, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(output.attentions, weights, rtol=1e-4, atol=1e-6)


def test_hooks_on_the_model_run(engine, model) -> None:
    plain = engine.forward([(engine.new_sequence(), [1, 2])])[0].logits
    hook = model.transformer.h[1].register_forward_hook(lambda module, args, out: out * 0)
    try:
        changed = engine.forward([(engine.new_sequence(), [1, 2])])[0].logits
    finally:
        hook.remove()
    assert not np.allclose(plain, changed)


def test_greedy_generation_takes_the_best_token_each_time(engine, model) -> None:
    prompts = [[3, 1, 4], [1, 5, 9, 2, 6]]
    wanted = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(12):
            ids.append(int(expected(model, ids)[-1].argmax()))
            if ids[-1] == 0:
                break
        wanted.append(ids[len(prompt) :])
    assert engine.generate(prompts, max_new_tokens=12, do_sample=False) == wanted


def test_checkpoints_are_read_in_the_dtype_asked_for(model, tmp_path) -> None:
    model.save_pretrained(tmp_path / "m")
    ids = [1, 2, 3]
    for dtype, tolerance in (("auto", 1e-6), ("float32", 1e-6), ("bfloat16", 0.1)):
        engine = TorchEngine.from_checkpoint(open_checkpoint(tmp_path / "m"), dtype=dtype)
        assert engine.model.dtype == (torch.bfloat16 if dtype == "bfloat16" else torch.float32)
        got = engine.forward([(engine.new_sequence(), ids)])[0].logits
        want = expected(model, ids)[-1]
        assert np.abs(got - want).max() <= tolerance * np.abs(want).max()
    for options in ({"dtype": "int4"}, {"device": "cuda:77"}):
        with pytest.raises(EngineError, match=r"int4|cuda:77"):
            TorchEngine.from_checkpoint(open_checkpoint(tmp_path / "m"), **options)
