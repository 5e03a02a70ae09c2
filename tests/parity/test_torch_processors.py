"""The classes over tensors against Transformers' of the same names: built alike, called alike."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest

import gpt2kit
from fakes import write_tiny_model
from gpt2kit.errors import GenerationError

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")
hf_processors = pytest.importorskip("transformers.generation.logits_process")
hf_criteria = pytest.importorskip("transformers.generation.stopping_criteria")

V = 60


def ids_like(rng, *shape):
    return torch.tensor(rng.integers(0, 9, shape))


# name -> arguments for a random case; input_ids are (4, T)
ARGUMENTS = {
    "TemperatureLogitsWarper": lambda rng, ids: [float(rng.choice([0.5, 2.0]))],
    "TopKLogitsWarper": lambda rng, ids: [int(rng.integers(1, 30)), -1e4, int(rng.integers(1, 4))],
    "TopPLogitsWarper": lambda rng, ids: [float(rng.uniform()), -np.inf, int(rng.integers(1, 4))],
    "TopHLogitsWarper": lambda rng, ids: [float(rng.uniform(0.01, 0.99))],
    "MinPLogitsWarper": lambda rng, ids: [float(rng.uniform()), -np.inf, int(rng.integers(1, 4))],
    "TypicalLogitsWarper": lambda rng, ids: [float(rng.uniform(0.01, 0.99)), -5.0, int(rng.integers(1, 4))],
    "EpsilonLogitsWarper": lambda rng, ids: [float(rng.uniform(1e-4, 0.3)), -np.inf, 2],
    "EtaLogitsWarper": lambda rng, ids: [float(rng.uniform(1e-4, 0.3)), -np.inf, 2],
    "RepetitionPenaltyLogitsProcessor": lambda rng, ids: [
        1.3, [None, 2, torch.tensor(rng.integers(0, 4, 4))][rng.integers(3)]
    ],
    "EncoderRepetitionPenaltyLogitsProcessor": lambda rng, ids: [1.4, ids[:: int(rng.choice([1, 2])), :3]],
    "NoRepeatNGramLogitsProcessor": lambda rng, ids: [int(rng.integers(1, 4))],
    "EncoderNoRepeatNGramLogitsProcessor": lambda rng, ids: [
        int(rng.integers(1, 4)), ids[:: int(rng.choice([1, 2])), :4]
    ],
    "SequenceBiasLogitsProcessor": lambda rng, ids: [
        {(*ids[0, -2:].tolist(), 3): 1.5, (4,): -2.0} if rng.random() < 0.5 else [[[1, 2], 0.5]]
    ],
    "NoBadWordsLogitsProcessor": lambda rng, ids: [[[3], [*ids[1, -1:].tolist(), 7]], [3, 9]],
    "MinLengthLogitsProcessor": lambda rng, ids: [int(rng.integers(0, 14)), torch.tensor([3, 5])],
    "MinNewTokensLengthLogitsProcessor": lambda rng, ids: [3, int(rng.integers(0, 9)), 5],
    "PrefixConstrainedLogitsProcessor": lambda rng, ids: [
        lambda batch, row: [1, 2, 30 + batch, int(row[-1])], int(rng.choice([1, 2]))
    ],
    "ForcedBOSTokenLogitsProcessor": lambda rng, ids: [7],
    "ForcedEOSTokenLogitsProcessor": lambda rng, ids: [int(rng.integers(2, 14)), [3, 4]],
    "InfNanRemoveLogitsProcessor": lambda rng, ids: [],
    "ExponentialDecayLengthPenalty": lambda rng, ids: [(int(rng.integers(0, 5)), 1.3), [3, 4], 2],
    "LogitNormalization": lambda rng, ids: [],
    "SuppressTokensLogitsProcessor": lambda rng, ids: [[3, 50]],
    "SuppressTokensAtBeginLogitsProcessor": lambda rng, ids: [[3, 50], int(rng.integers(1, 13))],
    "WatermarkLogitsProcessor": lambda rng, ids: [
        V, "cpu", 0.3, 1.5, 15485863, str(rng.choice(["lefthash", "selfhash"])), int(rng.integers(1, 4))
    ],
}  # fmt: skip
FORGIVING = {"LogitNormalization", "ExponentialDecayLengthPenalty"}  # rounded differently, or summed


@pytest.mark.parametrize("name", ARGUMENTS)
def test_classes_give_transformers_scores(name):
    rng = np.random.default_rng(len(name))
    for _ in range(25):
        ids = ids_like(rng, 4, int(rng.integers(3, 13)))
        if name == "ForcedBOSTokenLogitsProcessor" and rng.random() < 0.5:
            ids = ids[:, :1]
        scores = torch.tensor(np.stack([rng.permutation(np.linspace(-4, 4, V)) for _ in range(4)]))
        scores[torch.tensor(rng.random((4, V)) < 0.2)] = -torch.inf
        arguments = ARGUMENTS[name](rng, ids)
        mine = getattr(gpt2kit, name)(*arguments)(ids, scores.float())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = getattr(hf_processors, name)(*arguments)(ids, scores.float())
        assert mine.dtype == torch.float32
        tolerance = 2e-6 if name in FORGIVING else 0
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


def test_other_types_keep_their_type():
    ids, scores = torch.tensor([[1]]), torch.randn(1, V).bfloat16()
    for processor in (gpt2kit.TopKLogitsWarper(3), gpt2kit.InfNanRemoveLogitsProcessor()):
        result = processor(ids, scores)
        assert result.dtype == torch.bfloat16
    assert gpt2kit.InfNanRemoveLogitsProcessor()(ids, scores / 0.0).isfinite().all()


def test_tournaments_are_those_of_transformers_over_a_batch():
    rng = np.random.default_rng(0)
    settings = [4, [1, 2, 3], 1000, 5, 20, torch.device("cpu")]
    mine = gpt2kit.SynthIDTextWatermarkLogitsProcessor(*settings)
    theirs = hf_processors.SynthIDTextWatermarkLogitsProcessor(*settings)
    ids = ids_like(rng, 3, 4)
    for _ in range(8):
        scores = torch.tensor(rng.normal(size=(3, V))).float()
        torch.testing.assert_close(mine(ids, scores), theirs(ids, scores), rtol=1e-4, atol=1e-4)
        ids = torch.cat((ids, ids_like(rng, 3, 1)), dim=1)
    for name in ("compute_g_values", "compute_context_repetition_mask"):
        assert torch.equal(getattr(mine, name)(ids), getattr(theirs, name)(ids))
    assert torch.equal(mine.compute_eos_token_mask(ids, 3), theirs.compute_eos_token_mask(ids, 3))
    assert mine.expected_mean_g_value(V) == theirs.expected_mean_g_value(V)


def test_guidance_over_a_model_is_transformers(tmp_path):
    write_tiny_model(tmp_path)
    model, reference = (
        gpt2kit.GPT2LMHeadModel.from_pretrained(tmp_path),
        hf.GPT2LMHeadModel.from_pretrained(tmp_path),
    )
    model.eval()
    rng = np.random.default_rng(1)
    for negative in (None, ids_like(rng, 2, 3)):
        mine = gpt2kit.UnbatchedClassifierFreeGuidanceLogitsProcessor(1.8, model, negative)
        theirs = hf_processors.UnbatchedClassifierFreeGuidanceLogitsProcessor(1.8, reference, negative)
        ids = ids_like(rng, 2, 5)
        for _ in range(4):
            scores = torch.tensor(rng.normal(size=(2, model.config.vocab_size))).float()
            with torch.no_grad():
                torch.testing.assert_close(mine(ids, scores), theirs(ids, scores), rtol=1e-4, atol=1e-4)
            ids = torch.cat((ids, ids_like(rng, 2, 1)), dim=1)
    masked = gpt2kit.UnbatchedClassifierFreeGuidanceLogitsProcessor(
        1.8, model, torch.tensor([[0, 4], [3, 4]]), torch.tensor([[0, 1], [1, 1]])
    )
    plain = gpt2kit.UnbatchedClassifierFreeGuidanceLogitsProcessor(1.8, model, torch.tensor([[4], [4]]))
    scores = scores[:1].repeat(2, 1)
    torch.testing.assert_close(masked(ids, scores)[0], plain(ids, scores)[0])
    batched = gpt2kit.ClassifierFreeGuidanceLogitsProcessor(1.8)(ids[:1], scores)
    torch.testing.assert_close(batched, scores[:1])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("TemperatureLogitsWarper", [0.0]),
        ("TemperatureLogitsWarper", [float("nan")]),
        ("TopKLogitsWarper", [0]),
        ("TopPLogitsWarper", [1.5]),
        ("TopPLogitsWarper", [0.5, -1.0, 0]),
        ("TopHLogitsWarper", [0.0]),
        ("MinPLogitsWarper", [-0.1]),
        ("TypicalLogitsWarper", [1.0]),
        ("EpsilonLogitsWarper", [0.0]),
        ("EtaLogitsWarper", [1.0]),
        ("RepetitionPenaltyLogitsProcessor", [-1.0]),
        ("RepetitionPenaltyLogitsProcessor", [1.1, torch.zeros(2, 2)]),
        ("EncoderRepetitionPenaltyLogitsProcessor", [0.0, torch.tensor([[1]])]),
        ("NoRepeatNGramLogitsProcessor", [0]),
        ("EncoderNoRepeatNGramLogitsProcessor", [0, torch.tensor([[1]])]),
        ("SequenceBiasLogitsProcessor", [{}]),
        ("SequenceBiasLogitsProcessor", [{(): 1.0}]),
        ("NoBadWordsLogitsProcessor", [[]]),
        ("NoBadWordsLogitsProcessor", [[[-1]]]),
        ("MinLengthLogitsProcessor", [-1, 0]),
        ("MinNewTokensLengthLogitsProcessor", [1, -1, 0]),
        ("ForcedEOSTokenLogitsProcessor", [3, -1]),
        ("WatermarkLogitsProcessor", [V, "cpu", 1.0]),
        ("WatermarkLogitsProcessor", [V, "cpu", 0.5, 1.0, 3, "other"]),
        ("ClassifierFreeGuidanceLogitsProcessor", [1.0]),
    ],
)
def test_what_transformers_refuses_is_refused(name, arguments):
    with pytest.raises(ValueError):
        getattr(hf_processors, name)(*arguments)
    with pytest.raises(GenerationError):
        getattr(gpt2kit, name)(*arguments)


def test_lists_run_their_processors_in_order_and_pass_what_they_ask_for():
    class Add(gpt2kit.LogitsProcessor):
        def __call__(self, input_ids, scores, amount):
            return scores + amount

    chain = gpt2kit.LogitsProcessorList([gpt2kit.TemperatureLogitsWarper(0.5), Add()])
    ids, scores = torch.tensor([[1]]), torch.tensor([[1.0, 2.0]])
    assert chain(ids, scores, amount=3.0).tolist() == [[5.0, 7.0]]
    with pytest.raises(GenerationError, match=r"all the required parameters.*amount"):
        chain(ids, scores)
    with pytest.raises(NotImplementedError, match="LogitsProcessor is abstract"):
        gpt2kit.LogitsProcessor()(ids, scores)


def test_tensors_of_other_shapes_are_refused():
    with pytest.raises(GenerationError, match=r"input_ids \(2,\) and scores \(1, 2\)"):
        gpt2kit.TopKLogitsWarper(1)(torch.tensor([1, 2]), torch.zeros(1, 2))
    with pytest.raises(GenerationError, match="Incompatible `prompt_ignore_length` batch size"):
        gpt2kit.RepetitionPenaltyLogitsProcessor(1.2, torch.tensor([1]))(
            torch.ones(2, 2).long(), torch.zeros(2, 5)
        )


def test_stop_strings_end_rows_as_in_transformers(tmp_path):
    write_tiny_model(tmp_path)
    tokenizer, theirs = (
        gpt2kit.AutoTokenizer.from_pretrained(tmp_path),
        hf.AutoTokenizer.from_pretrained(tmp_path),
    )
    size = len(tokenizer)
    rng = np.random.default_rng(2)
    pieces = ["h", "he", "hell", "hello", " w", "w", "o", "l", "lo w", "é"]
    num_true = 0
    for _ in range(60):
        stops = [str(s) for s in rng.choice(["hello", "lo", "o", "hell w", " wh", "é", "lohe", "ll"], 2)]
        mine = gpt2kit.StopStringCriteria(tokenizer, stops)
        expected = hf_criteria.StopStringCriteria(theirs, stops)
        rows = [[i for p in rng.choice(pieces, 6) for i in tokenizer.encode(str(p))] for _ in range(4)]
        shortest = min(map(len, rows))
        ids = torch.tensor([row[-shortest:] for row in rows])
        for width in range(1, shortest + 1):
            answer = mine(ids[:, :width], None)
            assert torch.equal(answer, expected(ids[:, :width], None)), (stops, ids[:, :width])
            num_true += int(answer.sum())
    assert num_true > 100 and size > 200
    with pytest.raises(GenerationError, match="stop_strings is empty"):
        gpt2kit.StopStringCriteria(tokenizer, [])


def test_the_other_criteria_are_transformers():
    rng = np.random.default_rng(3)
    for _ in range(30):
        ids = ids_like(rng, 4, int(rng.integers(1, 9)))
        for name, arguments in (
            ("MaxLengthCriteria", [5]),
            ("EosTokenCriteria", [[2, 3]]),
            ("EosTokenCriteria", [4]),
        ):
            expected = getattr(hf_criteria, name)(*arguments)(ids, None)
            assert torch.equal(getattr(gpt2kit, name)(*arguments)(ids, None), expected)
        scores = (torch.randn(1, 9),)
        mine, theirs = gpt2kit.ConfidenceCriteria(0.1), hf_criteria.ConfidenceCriteria(0.1)
        assert mine(ids[:1], scores) is theirs(ids[:1], scores)
    everything = gpt2kit.StoppingCriteriaList([gpt2kit.EosTokenCriteria(3), gpt2kit.MaxLengthCriteria(2)])
    assert everything.max_length == 2
    assert everything(torch.tensor([[3], [1]]), None).tolist() == [True, False]
    assert everything(torch.tensor([[1, 1]]), None).tolist() == [True]
    late = gpt2kit.MaxTimeCriteria(1.0, initial_timestamp=time.time() - 2)
    assert (
        late(torch.ones(2, 2), None).all() and not gpt2kit.MaxTimeCriteria(9.0)(torch.ones(2, 2), None).any()
    )
    with pytest.raises(NotImplementedError, match="StoppingCriteria is abstract"):
        gpt2kit.StoppingCriteria()(torch.ones(1, 1), None)
