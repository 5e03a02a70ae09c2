"""The models with other heads give what Transformers' classes give at equal random weights.

Beside the sweep of test_network_sweep.py: what is particular to a head. Tolerance: 2e-5 of the largest value.
"""

import inspect
import random
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers

import gpt2kit.model
from gpt2kit.config import GPT2Config
from gpt2kit.errors import CheckpointError, ConfigError
from gpt2kit.model import (
    GPT2DoubleHeadsModel,
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    GPT2SequenceSummary,
)
from random_models import random_options

TOLERANCE = 2e-5
CLASSES = [
    "GPT2DoubleHeadsModel",
    "GPT2ForQuestionAnswering",
    "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification",
]
B, C, T = 3, 2, 9
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "summary_first_dropout": 0.0}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost these small models more than they give, many times more on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def both(name: str, seed: int, **overrides: Any) -> tuple[Any, Any]:
    """Our model and the oracle's of a class, with the same random weights, biases and norms included."""
    r = random.Random(seed)
    settings: dict[str, Any] = random_options(r) | NO_DROPOUT | {"classifier_dropout": 0.0}
    settings["num_labels"] = r.randint(1, 5)
    settings["vocab_size"] = max(settings["vocab_size"], 12)
    settings["n_positions"] = max(settings["n_positions"], T)
    settings["pad_token_id"] = 7
    settings["summary_type"] = r.choice(["cls_index", "cls_index", "last", "first", "mean"])
    settings["summary_activation"] = r.choice([None, "tanh", "relu"])
    settings |= overrides
    torch.manual_seed(seed)
    ours = getattr(gpt2kit.model, name)(GPT2Config(**settings)).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    config = transformers.GPT2Config(**settings, attn_implementation="eager")
    theirs = getattr(transformers, name)(config).eval()
    result = theirs.load_state_dict(ours.state_dict(), strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    return ours, theirs


def inputs_of(model: Any, seed: int) -> dict[str, Any]:
    """Ids, labels and what else a class takes, no id being the padding's."""
    torch.manual_seed(seed)
    size, N = model.config.vocab_size, model.config.num_labels
    ids = torch.randint(8, size, (B, T))
    match type(model).__name__:
        case "GPT2DoubleHeadsModel":
            ids = torch.randint(8, size, (B, C, T))
            return {
                "input_ids": ids,
                "mc_token_ids": torch.randint(0, T, (B, C)),
                "labels": ids.masked_fill(torch.rand(ids.shape) < 0.2, -100),
                "mc_labels": torch.randint(0, C, (B,)),
            }
        case "GPT2ForQuestionAnswering":
            # Some lie before the text and some past it.
            positions = torch.randint(-2, T + 3, (2, B)) if seed % 2 else torch.randint(0, T, (2, B, 1))
            return {"input_ids": ids, "start_positions": positions[0], "end_positions": positions[1]}
        case "GPT2ForTokenClassification":
            labels = torch.randint(0, N, (B, T))
            return {"input_ids": ids, "labels": labels.masked_fill(torch.rand(B, T) < 0.2, -100)}
    labels = torch.randint(0, N, (B,)) if N > 1 else torch.randn(B)
    return {"input_ids": ids, "labels": labels}


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape
    if theirs.isnan().any():  # the mean over no target at all
        assert torch.equal(ours.isnan(), theirs.isnan())
        return
    scale = theirs.abs().max().clamp(min=1e-30)
    error = ((ours - theirs).abs().max() / scale).item()
    assert error <= tolerance, f"differs by {error:.1e} of the largest value; {tolerance:.0e} allowed"


def assert_same_output(got: Any, expected: Any) -> None:
    """Every field, in order; hidden states of leading dimensions may be flattened by the oracle."""
    assert type(got).__name__ == type(expected).__name__
    assert list(got.keys()) == list(expected.keys())
    for name, value in expected.items():
        if name in ("hidden_states", "attentions"):
            for a, b in zip(got[name], value, strict=True):
                assert_close(a.reshape(b.shape), b)
        elif name != "past_key_values":
            assert_close(got[name], value)


@pytest.mark.parametrize("name", CLASSES)
def test_signatures_and_fields_are_the_oracles(name: str) -> None:
    mine = list(inspect.signature(getattr(gpt2kit.model, name).forward).parameters)
    theirs = inspect.signature(getattr(transformers, name).forward).parameters
    positional = [n for n, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert mine[: len(positional)] == positional


@pytest.mark.parametrize("name", CLASSES)
def test_tuples_are_the_oracles(name: str) -> None:
    ours, theirs = both(name, 200)
    inputs = inputs_of(ours, 200)
    got, expected = (m(**inputs, return_dict=False) for m in (ours, theirs))
    assert isinstance(got, tuple) and len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        if isinstance(b, torch.Tensor):
            assert_close(a, b)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_masks_and_types_equal_the_oracles(name: str, side: str) -> None:
    ours, theirs = both(name, 201, summary_type="cls_index")
    inputs = inputs_of(ours, 201)
    ids = inputs["input_ids"].clone()
    mask = torch.ones_like(ids)
    padding = slice(0, 4) if side == "left" else slice(T - 4, T)
    ids[1, ..., padding] = ours.config.pad_token_id
    mask[1, ..., padding] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    inputs |= {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    inputs["token_type_ids"] = torch.randint(0, 3, ids.shape)
    if name == "GPT2ForSequenceClassification":
        with torch.no_grad():
            got, expected = ours(**inputs), theirs(**inputs)
        assert_close(got.logits, expected.logits)
        assert_close(got.loss, expected.loss)
        # The answer for a row is the one that it gets alone and unpadded.
        kept = mask[1].bool()
        alone = ours(ids[1][kept][None], token_type_ids=inputs["token_type_ids"][1][kept][None])
        assert_close(got.logits[1], alone.logits[0])
        return
    # What a fully masked position holds is nobody's business: compare the others.
    if name == "GPT2DoubleHeadsModel":
        inputs["mc_token_ids"] = torch.full((B, C), 4)  # must point at tokens that are there
    flat = {"position_ids": positions.reshape(-1, T)}  # the oracle does not flatten these itself
    with torch.no_grad():
        got, expected = ours(**inputs), theirs(**inputs | flat)
    for key in ("logits", "mc_logits", "start_logits", "end_logits"):
        if key == "mc_logits" and key in expected:
            assert_close(got[key], expected[key])
        elif key in expected:
            assert_close(got[key][mask.bool()], expected[key][mask.bool()])


@pytest.mark.parametrize(
    ("num_labels", "problem_type", "labels"),
    [
        (1, None, torch.randn(B)),
        (1, None, torch.randn(B, 1)),
        (1, "regression", torch.randn(B)),
        (4, "regression", torch.randn(B, 4)),
        (4, None, torch.tensor([0, 3, -100])),
        (4, None, torch.tensor([[1], [2], [3]])),
        (4, "single_label_classification", torch.tensor([2, 2, 0])),
        (4, None, torch.rand(B, 4)),
        (4, "multi_label_classification", (torch.rand(B, 4) < 0.5).float()),
        (1, "multi_label_classification", torch.rand(B, 1)),
    ],
)
def test_every_problem_type_equals_the_oracles(num_labels: int, problem_type, labels: torch.Tensor) -> None:
    ours, theirs = both(
        "GPT2ForSequenceClassification", 202, num_labels=num_labels, problem_type=problem_type
    )
    ids = inputs_of(ours, 202)["input_ids"]
    got, expected = ours(ids, labels=labels), theirs(ids, labels=labels)
    assert_close(got.loss, expected.loss)
    assert ours.config.problem_type == theirs.config.problem_type is not None


def test_labels_of_other_number_types_are_taken() -> None:
    ours, _ = both("GPT2ForSequenceClassification", 202, num_labels=3)
    ids = inputs_of(ours, 202)["input_ids"]
    expected = ours(ids, labels=torch.tensor([0, 1, 2])).loss
    assert torch.equal(ours(ids, labels=torch.tensor([0, 1, 2], dtype=torch.int32)).loss, expected)
    ours.config.problem_type = "multi_label_classification"
    marks = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0]])
    assert torch.equal(ours(ids, labels=marks).loss, ours(ids, labels=marks.double()).loss)


def test_a_batch_without_padding_token_is_refused_and_one_text_is_not() -> None:
    ours, theirs = both("GPT2ForSequenceClassification", 203, pad_token_id=None)
    ids = torch.randint(0, 12, (2, T))
    with pytest.raises(ValueError, match="Cannot handle batch sizes > 1 if no padding token is defined"):
        ours(ids)
    assert_close(ours(ids[:1]).logits, theirs(ids[:1]).logits)


def test_rows_of_nothing_but_padding_equal_the_oracles() -> None:
    ours, theirs = both("GPT2ForSequenceClassification", 204)
    ids = torch.full((2, T), ours.config.pad_token_id)
    ids[1, 0] = 9
    assert_close(ours(ids).logits, theirs(ids).logits)


def test_embeddings_in_place_of_ids_are_judged_at_the_last_position() -> None:
    ours, theirs = both("GPT2ForSequenceClassification", 205)
    embeds = torch.randn(B, T, ours.config.n_embd)
    with pytest.warns(UserWarning, match="cannot see padding"):
        got = ours(inputs_embeds=embeds).logits
    assert_close(got, theirs(inputs_embeds=embeds).logits)


def test_a_text_in_two_pieces_is_judged_as_in_one() -> None:
    ours, _ = both("GPT2ForSequenceClassification", 206)
    ids = torch.randint(8, 12, (B, T))
    whole = ours(ids).logits
    cache = ours(ids[:, :5]).past_key_values
    assert_close(ours(ids[:, 5:], past_key_values=cache).logits, whole)


@pytest.mark.parametrize("summary_type", ["last", "first", "mean", "cls_index"])
@pytest.mark.parametrize("proj", [(True, True), (True, False), (False, True)])
def test_summaries_equal_the_oracles(summary_type: str, proj: tuple[bool, bool]) -> None:
    settings = {"n_embd": 8, "n_head": 2, "summary_type": summary_type, "summary_activation": "tanh"}
    settings |= {"summary_use_proj": proj[0], "summary_proj_to_labels": proj[1], "num_labels": 3}
    settings |= NO_DROPOUT
    ours = GPT2SequenceSummary(GPT2Config(**settings))
    theirs = transformers.models.gpt2.modeling_gpt2.GPT2SequenceSummary(transformers.GPT2Config(**settings))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    hidden = torch.randn(B, T, 8)
    for index in (None, torch.tensor([0, T - 1, 3])):
        assert_close(ours(hidden, index), theirs(hidden, index))


def test_summaries_of_choices_are_taken_along_time() -> None:
    for summary_type, time in (("first", slice(0, 1)), ("last", slice(T - 1, T)), ("mean", slice(0, T))):
        ours, _ = both("GPT2DoubleHeadsModel", 207, summary_type=summary_type)
        ids = torch.randint(0, 12, (B, C, T))
        output = ours(ids, output_hidden_states=True)
        state = output.hidden_states[-1][:, :, time].mean(dim=2)
        head = ours.multiple_choice_head
        assert_close(output.mc_logits, head.activation(head.summary(state)).squeeze(-1))
        assert output.mc_logits.shape == (B, C)


def test_the_choice_is_judged_at_the_last_position_by_default() -> None:
    ours, theirs = both("GPT2DoubleHeadsModel", 208, summary_type="cls_index")
    ids = torch.randint(0, 12, (B, C, T))
    got = ours(ids)
    assert got.loss is None and got.mc_loss is None
    assert_same_output(got, theirs(ids))
    assert ours.config.num_labels == 1


@pytest.mark.parametrize("is_sharded", [False, True])
@pytest.mark.parametrize("name", CLASSES)
def test_folders_go_both_ways(tmp_path, name: str, is_sharded: bool) -> None:
    ours, _ = both(name, 209, num_labels=3)
    size = {"max_shard_size": "10KB"} if is_sharded else {}
    ours.save_pretrained(tmp_path / "ours", **size)
    theirs, info = getattr(transformers, name).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert theirs.config.architectures == [name]
    theirs.save_pretrained(tmp_path / "theirs", **size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back, info = getattr(gpt2kit.model, name).from_pretrained(
            tmp_path / "theirs", output_loading_info=True
        )
    assert not any(info.values())
    expected = theirs.state_dict()
    for parameter, value in back.state_dict().items():
        assert torch.equal(value, expected[parameter]), parameter
        assert torch.equal(value, ours.state_dict()[parameter]), parameter
    assert back.config.num_labels == ours.config.num_labels


@pytest.mark.parametrize("name", CLASSES)
def test_a_missing_head_is_drawn_with_one_warning(tmp_path, name: str) -> None:
    language_model, _ = both("GPT2LMHeadModel", 210, tie_word_embeddings=True)
    language_model.save_pretrained(tmp_path / "m")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, info = getattr(gpt2kit.model, name).from_pretrained(tmp_path / "m", output_loading_info=True)
    assert len(caught) == 1 and "drawn at random" in str(caught[0].message)
    own = {n for n, _ in model.named_parameters() if not n.startswith("transformer.")}
    assert set(info["missing_keys"]) == own
    for n, parameter in model.named_parameters():
        if n in own and n.endswith(".weight"):
            assert 0 < parameter.std() < 3 * model.config.initializer_range
        elif n in own:
            assert (parameter == 0).all()


def test_a_head_for_other_labels_is_replaced_only_on_request(tmp_path) -> None:
    model, _ = both("GPT2ForSequenceClassification", 211, num_labels=4, tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"score.weight has the shape \(4, .*ignore_mismatched_sizes"):
        GPT2ForSequenceClassification.from_pretrained(tmp_path / "m", num_labels=2)
    with pytest.warns(UserWarning, match=r"of another shape: score.weight \(4, "):
        back, info = GPT2ForSequenceClassification.from_pretrained(
            tmp_path / "m", num_labels=2, ignore_mismatched_sizes=True, output_loading_info=True
        )
    E = model.config.n_embd
    assert info["mismatched_keys"] == {("score.weight", (4, E), (2, E))}
    assert back.score.weight.shape == (2, E) and back.num_labels == 2
    assert torch.equal(back.transformer.wte.weight, model.transformer.wte.weight)
    # A language model can still be read from it.
    with pytest.warns(UserWarning, match=r"score.weight not used"):
        GPT2LMHeadModel.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize("task", ["SequenceClassification", "TokenClassification", "QuestionAnswering"])
def test_auto_classes_make_the_models_with_heads(tmp_path, task: str) -> None:
    model, _ = both(f"GPT2For{task}", 212)
    model.save_pretrained(tmp_path / "m")
    auto = getattr(gpt2kit.model, f"AutoModelFor{task}")
    assert type(auto.from_pretrained(tmp_path / "m")) is type(model)
    assert type(auto.from_config(model.config)) is type(model)
    assert type(gpt2kit.model.AutoModelForPreTraining.from_config(model.config)) is GPT2LMHeadModel


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", CLASSES)
def test_half_precision_gives_finite_losses_in_float32(name: str, dtype: str) -> None:
    model, _ = both(name, 213, num_labels=3)
    inputs = inputs_of(model, 213 + 1)
    exact = model(**inputs).loss
    rounded = model.to(getattr(torch, dtype))(**inputs).loss
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.1)


def test_classifier_dropout_is_the_configurations() -> None:
    settings = {"n_embd": 4, "n_head": 1, "n_layer": 1, "vocab_size": 5}
    for extra, expected in (
        ({}, 0.1),
        ({"hidden_dropout": 0.3}, 0.3),
        ({"hidden_dropout": 0.3, "classifier_dropout": 0.0}, 0.0),
        ({"hidden_dropout": 0.3, "classifier_dropout": None}, 0.3),
    ):
        assert GPT2ForTokenClassification(GPT2Config(**settings, **extra)).dropout.p == expected


HOSTILE = [
    ("GPT2ForSequenceClassification", {"labels": torch.tensor([0, 1, 4])}, "labels hold 4; allowed: 0 to 3"),
    ("GPT2ForSequenceClassification", {"labels": torch.tensor([0, -1, 3])}, "labels hold -1"),
    ("GPT2ForSequenceClassification", {"labels": torch.tensor([0, 1])}, r"labels have the shape \(2,\)"),
    ("GPT2ForSequenceClassification", {"labels": torch.rand(B)}, r"\(3, 4\) is needed"),
    ("GPT2ForSequenceClassification", {"labels": torch.rand(B, 4) + 1.5}, "allowed: 0 to 1"),
    ("GPT2ForSequenceClassification", {"labels": torch.full((B, 4), torch.nan)}, "hold nan"),
    ("GPT2ForSequenceClassification", {"input_ids": torch.zeros(B, 2, T).long()}, "one row of positions"),
    ("GPT2ForTokenClassification", {"labels": torch.full((B, T), 4)}, "labels hold 4; allowed: 0 to 3"),
    ("GPT2ForTokenClassification", {"labels": torch.zeros(B, T - 1).long()}, r"\(3, 9\) is needed"),
    ("GPT2ForTokenClassification", {"labels": torch.zeros(T, B).long()}, r"shape \(9, 3\)"),
    ("GPT2ForTokenClassification", {"labels": torch.zeros(B, T)}, "class numbers are integers"),
    ("GPT2ForQuestionAnswering", {"start_positions": torch.zeros(B, 2).long()}, "start_positions have"),
    ("GPT2ForQuestionAnswering", {"end_positions": torch.zeros(B + 1).long()}, "end_positions have"),
    ("GPT2ForQuestionAnswering", {"end_positions": torch.zeros(B)}, "end_positions are torch.float32"),
    ("GPT2DoubleHeadsModel", {"mc_labels": torch.tensor([0, 1, 2])}, "mc_labels hold 2; allowed: 0 to 1"),
    ("GPT2DoubleHeadsModel", {"mc_labels": torch.zeros(B, C).long()}, "mc_labels have the shape"),
    ("GPT2DoubleHeadsModel", {"labels": torch.full((B, C, T), 10_000)}, "labels hold 10000"),
    ("GPT2DoubleHeadsModel", {"labels": torch.zeros(B, T).long()}, "targets for"),
    ("GPT2DoubleHeadsModel", {"mc_token_ids": torch.full((B, C), T)}, "allowed: 0 to 8"),
    ("GPT2DoubleHeadsModel", {"mc_token_ids": torch.full((B, C), -1)}, "reach from -1"),
    ("GPT2DoubleHeadsModel", {"mc_token_ids": torch.zeros(B).long()}, r"\(3, 2\) is needed"),
    ("GPT2LMHeadModel", {"labels": torch.full((B, T), 10_000)}, "labels hold 10000"),
]


@pytest.mark.parametrize(("name", "wrong", "message"), HOSTILE)
def test_wrong_labels_give_one_clear_error(name: str, wrong: dict[str, Any], message: str) -> None:
    model, _ = both(name, 214, num_labels=4, summary_type="cls_index")
    with pytest.raises(ValueError, match=message):
        model(**inputs_of(model, 214) | wrong)


def test_wrong_regression_labels_give_one_clear_error() -> None:
    model, _ = both("GPT2ForSequenceClassification", 215, num_labels=1)
    ids = inputs_of(model, 215)["input_ids"]
    for labels, message in ((torch.randn(B, 2), "is needed"), (torch.tensor([0, torch.inf, 1]), "hold inf")):
        with pytest.raises(ValueError, match=message):
            model(ids, labels=labels)


def test_a_summary_without_definition_is_refused() -> None:
    config = GPT2Config(n_embd=4, n_head=1, n_layer=1, vocab_size=5, summary_type="attn")
    with pytest.raises(ConfigError, match="summary_type is 'attn'"):
        GPT2DoubleHeadsModel(config)
    config = GPT2Config(n_embd=4, n_head=1, n_layer=1, vocab_size=5, summary_activation="prelu")
    with pytest.raises(ConfigError, match="summary_activation 'prelu'"):
        GPT2DoubleHeadsModel(config)


def test_one_kind_of_answer_position_gives_no_loss() -> None:
    ours, theirs = both("GPT2ForQuestionAnswering", 216)
    inputs = inputs_of(ours, 216)
    del inputs["end_positions"]
    assert ours(**inputs).loss is None and theirs(**inputs).loss is None
    assert isinstance(ours, GPT2ForQuestionAnswering)
