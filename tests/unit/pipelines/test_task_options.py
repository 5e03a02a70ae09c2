"""What each task's own options mean, and what is refused, with one clear error each."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpt2kit.errors import MissingDependencyError, PipelineError
from gpt2kit.pipelines import (
    AggregationStrategy,
    ClassificationFunction,
    TextClassificationPipeline,
    pipeline,
)

LONG = "hello " * 200


class Network:
    """Gives fixed outputs for every row."""

    def __init__(self, config, *outputs):
        self.config = config
        self.outputs = np.array([outputs], dtype=np.float32)

    def run(self, rows, *, last=False):
        return [self.outputs if last else np.repeat(self.outputs, len(row), axis=0) for row in rows]


@pytest.fixture(scope="module")
def pipes(folders):
    options = {"zero-shot-classification": {"candidate_labels": ["a", "b"]}}
    return {task: pipeline(task, model=folder, **options.get(task, {})) for task, folder in folders.items()}


@pytest.fixture(scope="module")
def classify(pipes):
    """text-classification of a model that always gives the logits 1, 3, 2."""
    real = pipes["text-classification"]
    return TextClassificationPipeline(Network(real.config, 1.0, 3.0, 2.0), real.tokenizer)


def test_classification_gives_the_best_label(classify):
    total = sum(math.exp(x) for x in (1, 3, 2))
    (record,) = classify("x")
    assert record == {"label": "LABEL_1", "score": pytest.approx(math.exp(3) / total)}
    assert classify(["x", "y"]) == [record, record]
    assert classify("x", top_k=1) == [record]


def test_top_k_labels_come_best_first(classify):
    assert [r["label"] for r in classify("x", top_k=2)] == ["LABEL_1", "LABEL_2"]
    assert [r["label"] for r in classify("x", top_k=None)] == ["LABEL_1", "LABEL_2", "LABEL_0"]
    assert [len(records) for records in classify(["x", "y"], top_k=2)] == [2, 2]


def test_return_all_scores_is_in_the_order_of_the_labels(classify):
    (records,) = classify("x", return_all_scores=True)
    assert [r["label"] for r in records] == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert classify(["x"], return_all_scores=True) == [records]
    assert classify("x", return_all_scores=False) == classify("x")


@pytest.mark.parametrize(
    ("function", "score"),
    [
        ("none", 3.0),
        ("sigmoid", 1 / (1 + math.exp(-3))),
        (ClassificationFunction.SIGMOID, 1 / (1 + math.exp(-3))),
        ("SoftMax", math.exp(3) / sum(math.exp(x) for x in (1, 3, 2))),
        ("default", math.exp(3) / sum(math.exp(x) for x in (1, 3, 2))),
    ],
)
def test_the_function_to_apply(classify, function, score):
    assert classify("x", function_to_apply=function)[0]["score"] == pytest.approx(score)


def test_extreme_logits_give_numbers_without_a_warning(pipes, recwarn):
    real = pipes["text-classification"]
    pipe = TextClassificationPipeline(Network(real.config, -1e4, 1e4, 0.0), real.tokenizer)
    for function in ("sigmoid", "softmax"):
        scores = [r["score"] for r in pipe("x", top_k=None, function_to_apply=function)]
        assert scores[0] == 1.0
        assert min(scores) == 0.0
    assert len(recwarn) == 0


@pytest.mark.parametrize("padding", [True, "longest", "max_length", False])
def test_padding_changes_nothing(pipes, padding):
    pipe = pipes["text-classification"]
    assert pipe("hello", padding=padding, truncation=True, max_length=9) == pipe("hello")


def test_truncation_cuts_at_what_the_model_holds(pipes):
    pipe = pipes["text-classification"]
    kept = pipe.tokenizer.decode(pipe.tokenizer(LONG)["input_ids"][:128])
    assert pipe(LONG, truncation=True) == pipe(kept)


@pytest.mark.parametrize("task", ["text-classification", "feature-extraction"])
def test_a_text_that_is_too_long_is_one_clear_error(pipes, task):
    num_tokens = len(pipes[task].tokenizer(LONG)["input_ids"])
    with pytest.raises(
        PipelineError,
        match=rf"input 1 has {num_tokens} tokens; n_positions is 128; shorten it, or pass truncation=True",
    ):
        pipes[task](["hello", LONG])


def test_a_long_text_loses_its_end_for_zero_shot_and_the_hypothesis_stays(pipes):
    pipe = pipes["zero-shot-classification"]
    hypothesis = pipe.tokenizer("This example is a.")["input_ids"]
    kept = pipe.tokenizer.decode(pipe.tokenizer(LONG)["input_ids"][: 128 - len(hypothesis)])
    given = pipe(LONG, candidate_labels=["a"])
    assert given["scores"] == pipe(kept, candidate_labels=["a"])["scores"]
    assert given["sequence"] == LONG
    with pytest.raises(PipelineError, match="leave no room for a text; n_positions is 128"):
        pipe("x", candidate_labels=[LONG])


def test_zero_shot_scores(pipes):
    real = pipes["zero-shot-classification"]
    pipe = type(real)(Network(real.config, 0.0, 5.0, 1.0), real.tokenizer)
    shared = pipe("x", "a, b , ,c")
    assert shared == {"sequence": "x", "labels": ["a", "b", "c"], "scores": [pytest.approx(1 / 3)] * 3}
    alone = pipe("x", ["a", "b"], multi_label=True)
    assert alone["scores"] == [pytest.approx(1 / (1 + math.exp(-1)))] * 2  # against contradiction


def test_zero_shot_without_an_entailment_label_warns_and_takes_the_last(pipes):
    with pytest.warns(UserWarning, match="Failed to determine 'entailment' label id"):
        pipe = pipeline("zero-shot-classification", model=pipes["text-classification"].checkpoint)
    assert pipe.entailment_id == -1
    assert len(pipe("hello", ["a", "b"])["scores"]) == 2


def test_a_text_longer_than_the_model_is_labelled_as_far_as_it_goes_with_a_warning(pipes):
    pipe = pipes["token-classification"]
    with pytest.warns(UserWarning, match="input 0 is longer than 128 tokens; .* pass stride="):
        entities = pipe(LONG, ignore_labels=[])
    assert len(entities) == 128
    groups = pipe(LONG, ignore_labels=[], aggregation_strategy="simple", stride=10)
    assert groups[-1]["end"] == len(LONG)


def test_offsets_of_the_caller_replace_the_tokenizer_s(pipes):
    pipe = pipes["token-classification"]
    text = "hello"  # one token
    assert [e["end"] for e in pipe(text, ignore_labels=[], offset_mapping=[(0, 3)])] == [3]
    assert [
        [e["start"] for e in entities]
        for entities in pipe([text, text], ignore_labels=[], offset_mapping=[[(1, 3)], [(2, 4)]])
    ] == [[1], [2]]
    with pytest.raises(PipelineError, match="should have the same batch size as the input: got 1 for 2"):
        pipe([text, text], offset_mapping=[(0, 3)])
    with pytest.raises(PipelineError, match="has 2 pairs for input 0, which has 1 tokens"):
        pipe(text, offset_mapping=[(0, 3), (3, 4)])


def test_strategies_may_be_members_of_the_enum(pipes):
    pipe = pipes["token-classification"]
    given = pipe("hello world", aggregation_strategy=AggregationStrategy.MAX)
    assert given == pipe("hello world", aggregation_strategy="max")


def test_features_may_be_arrays(pipes):
    pipe = pipes["feature-extraction"]
    array = pipe("hello world", return_tensors="np")
    assert array.shape == (1, 6, 16)
    assert array.dtype == np.float32
    assert array.tolist() == pipe("hello world")
    torch = pytest.importorskip("torch")
    assert torch.equal(pipe("hello world", return_tensors=True), torch.from_numpy(array))


def test_tensors_without_torch_are_one_clear_error(pipes, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingDependencyError, match="use return_tensors='np'"):
        pipes["feature-extraction"]("hello", return_tensors=True)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("text-classification", {"top_k": 0}, "top_k must be an int of at least 1, got 0"),
        ("text-classification", {"top_k": 1.5}, "top_k must be an int of at least 1, got 1.5"),
        ("text-classification", {"top_k": True}, "top_k must be an int of at least 1, got True"),
        (
            "text-classification",
            {"function_to_apply": "tanh"},
            "function_to_apply must be 'default', 'sigmoid'",
        ),
        ("text-classification", {"return_all_scores": 1}, "return_all_scores must be True or False"),
        ("text-classification", {"functon_to_apply": "none"}, "did you mean function_to_apply"),
        ("feature-extraction", {"return_tensors": "tf"}, "return_tensors must be True, False, 'np' or 'pt'"),
        ("feature-extraction", {"padding": "max_length"}, "padding has no features"),
        (
            "feature-extraction",
            {"truncation": True, "tokenize_kwargs": {"truncation": True}},
            r"truncation parameter defined twice \(given as keyword argument as well as in tokenize_kwargs\)",
        ),
        ("feature-extraction", {"tokenize_kwargs": {"x": 1}}, "feature-extraction has no option 'x'"),
        (
            "token-classification",
            {"aggregation_strategy": "last"},
            "aggregation_strategy must be one of 'none'",
        ),
        ("token-classification", {"stride": 3}, 'aggregation_strategy="none"`, please select another one'),
        (
            "token-classification",
            {"stride": 128, "aggregation_strategy": "simple"},
            "`stride` must be less than .*: less than 128, got 128",
        ),
        ("token-classification", {"stride": -1, "aggregation_strategy": "max"}, "stride must be an int"),
        ("token-classification", {"ignore_labels": "O"}, "ignore_labels must be a list of strings"),
        ("token-classification", {"delimiter": 3}, "delimiter must be a string"),
        ("token-classification", {"is_split_into_words": "yes"}, "is_split_into_words must be True or False"),
        ("token-classification", {"is_split_into_words": True}, "input 0 must be a list of words when"),
        ("zero-shot-classification", {"candidate_labels": []}, "You must include at least one label"),
        ("zero-shot-classification", {"candidate_labels": " , "}, "You must include at least one label"),
        ("zero-shot-classification", {"candidate_labels": [1]}, "must be a string or a list of strings"),
        ("zero-shot-classification", {"candidate_labels": 3}, "must be a string or a list of strings"),
        ("zero-shot-classification", {"hypothesis_template": "so"}, "was not able to be formatted"),
        ("zero-shot-classification", {"hypothesis_template": "{} {}"}, "cannot take a label"),
        ("zero-shot-classification", {"hypothesis_template": 3}, "hypothesis_template must be a string"),
        ("zero-shot-classification", {"multi_label": "yes"}, "multi_label must be True or False"),
    ],
)
def test_wrong_options_are_refused(pipes, task, options, message):
    with pytest.raises(PipelineError, match=message):
        pipes[task]("hello", **options)


@pytest.mark.parametrize(
    "item",
    [
        {"text": 3},
        {"txt": "a"},
        {"text": "a", "pair": "b"},
        {"text": "a", "text_pair": 3},
        [["a"]],
        [["a", 3]],
    ],
)
def test_what_is_no_pair_is_refused(pipes, item):
    with pytest.raises(PipelineError, match=r"must be a string, or a dictionary|input must be"):
        pipes["text-classification"]([item])


def test_words_are_refused_without_saying_so(pipes):
    with pytest.raises(PipelineError, match="input 0 must be a string when `is_split_into_words=False`"):
        pipes["token-classification"]([["hello", "world"]])


def test_older_names_of_options(folders):
    tagger = pipeline("ner", model=folders["token-classification"])
    text = "hello there Anne"
    assert tagger(text, grouped_entities=True) == tagger(text, aggregation_strategy="simple")
    both = tagger(text, grouped_entities=True, ignore_subwords=True)
    assert both == tagger(text, aggregation_strategy="first")
    assert tagger(text, grouped_entities=False) == tagger(text)
    judge = pipeline("zero-shot-classification", model=folders["zero-shot-classification"])
    labels = ["urgent", "calm"]
    assert judge(text, labels, multi_class=True) == judge(text, labels, multi_label=True)
