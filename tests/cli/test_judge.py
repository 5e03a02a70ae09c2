"""gpt2kit run --task of the tasks that judge texts."""

from __future__ import annotations

import json

import pytest

from fakes import write_tiny_model
from gpt2kit.cli.judge import TASKS
from gpt2kit.pipelines import pipeline
from gpt2kit.pipelines.factory import ALIASES
from gpt2kit.pipelines.factory import TASKS as PIPELINES

LABELS = {
    "id2label": {0: "no", 1: "maybe", 2: "entailment"},
    "label2id": {"no": 0, "maybe": 1, "entailment": 2},
}
QUESTION, CONTEXT = "who was she?", "she was not a woman of many words"


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    parent = tmp_path_factory.mktemp("judges")
    for head in ("score", "classifier", "qa_outputs"):
        write_tiny_model(parent / head, head=head, **LABELS)
    return {head: str(parent / head) for head in ("score", "classifier", "qa_outputs")}


def results(done):
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


def test_the_command_knows_every_task():
    assert set(TASKS) | {"text-generation"} == set(PIPELINES) | set(ALIASES)


@pytest.mark.parametrize("task", ["text-classification", "sentiment-analysis"])
def test_classification_prints_labels_best_first(cli, models, task):
    expected = pipeline(task, model=models["score"])("hello", top_k=None)
    done = cli("run", "--task", task, "-m", models["score"], "hello")
    assert (done.code, done.err) == (0, "")
    assert done.out == "".join(f"{row['score']:.4f}\t{row['label']}\n" for row in expected)
    whole = results(cli("run", "--task", task, "-m", models["score"], "hello", "--json", "--top-k", 2))
    assert whole == {
        "model": models["score"],
        "engine": "native",
        "task": "text-classification",
        "results": [{"text": "hello", "labels": expected[:2]}],
    }


def test_each_line_is_a_text_with_lines(cli, models, tmp_path):
    path = tmp_path / "texts"
    path.write_bytes(b"hello\r\nworld\n")
    pipe = pipeline("text-classification", model=models["score"])
    whole = results(
        cli("run", "--task", "text-classification", "-m", models["score"], "-f", path, "--lines", "--json")
    )
    assert [row["text"] for row in whole["results"]] == ["hello", "world"]
    assert [row["labels"] for row in whole["results"]] == pipe(["hello", "world"], top_k=None)
    done = cli(
        "run", "--task", "text-classification", "-m", models["score"], "--lines", stdin=b"hello\nworld\n"
    )
    assert [line for line in done.out.split("\n") if "\t" not in line] == ["hello", "", "world", ""]


def test_entities_are_grouped_unless_asked_otherwise(cli, models):
    pipe = pipeline("ner", model=models["classifier"])
    whole = results(cli("run", "--task", "ner", "-m", models["classifier"], CONTEXT, "--json"))
    assert whole["results"][0]["entities"] == pipe(CONTEXT, aggregation_strategy="simple")
    assert whole["task"] == "token-classification"
    done = cli("run", "--task", "ner", "-m", models["classifier"], CONTEXT, "--aggregation", "none")
    entities = pipe(CONTEXT)
    assert len(done.out.splitlines()) == len(entities)
    first = entities[0]
    text = CONTEXT[first["start"] : first["end"]]
    assert done.out.splitlines()[0] == (
        f"{first['score']:.4f}\t{first['entity']}\t{first['start']}-{first['end']}\t{text!r}"
    )


def test_zero_shot_takes_labels_from_the_command_line(cli, models):
    expected = pipeline("zero-shot-classification", model=models["score"])("hello", "red, green")
    options = ("run", "--task", "zero-shot-classification", "-m", models["score"], "hello")
    whole = results(cli(*options, "--labels", "red, green", "--json"))
    assert [row["label"] for row in whole["results"][0]["labels"]] == expected["labels"]
    assert [row["score"] for row in whole["results"][0]["labels"]] == expected["scores"]
    assert len(cli(*options, "--labels", "red,green", "--multi-label", "--top-k", "1").out.splitlines()) == 1
    done = cli(*options)
    assert (done.code, done.out) == (2, "")
    assert "needs --labels A,B" in done.err


def test_a_question_comes_by_options_or_as_lines_of_json(cli, models, tmp_path):
    answer = pipeline("question-answering", model=models["qa_outputs"])(QUESTION, CONTEXT)
    run = ("run", "--task", "question-answering", "-m", models["qa_outputs"])
    expected = f"{answer['score']:.4f}\t{answer['start']}-{answer['end']}\t{answer['answer']!r}\n"
    assert cli(*run, "--question", QUESTION, "--context", CONTEXT).out == expected
    assert cli(*run, "--question", QUESTION, CONTEXT).out == expected
    assert cli(*run, "--question", QUESTION, stdin=CONTEXT.encode()).out == expected
    lines = tmp_path / "questions.jsonl"
    lines.write_text(json.dumps({"question": QUESTION, "context": CONTEXT}) + "\n\n")
    assert cli(*run, "-f", lines).out == expected
    whole = results(cli(*run, "-f", lines, "--json", "--top-k", "3"))
    (row,) = whole["results"]
    assert (row["text"], row["context"], len(row["answers"])) == (QUESTION, CONTEXT, 3)
    assert row["answers"][0] == answer
    two = cli(*run, stdin=lines.read_bytes() * 2)
    assert two.out == f"{QUESTION}\n{expected}\n{QUESTION}\n{expected}"


def test_features_are_a_row_a_token(cli, model):
    features = pipeline("feature-extraction", model=model)("hello w")[0]
    done = cli("run", "--task", "feature-extraction", "-m", model, "hello w")
    assert [line.split("\t")[0] for line in done.out.splitlines()] == ["hello", "\u0120w"]
    assert len(done.out.splitlines()[0].split("\t")) == 17
    (row,) = results(cli("run", "--task", "feature-extraction", "-m", model, "hello w", "--json"))["results"]
    assert row == {"text": "hello w", "tokens": ["hello", "\u0120w"], "features": features}


def test_torch_judges_too(cli, models):
    pytest.importorskip("torch")
    run = ("run", "--task", "text-classification", "-m", models["score"], "hello", "--json")
    whole = results(cli(*run, "--engine", "torch"))
    assert whole["engine"] == "torch"
    given, expected = whole["results"][0]["labels"], results(cli(*run))["results"][0]["labels"]
    assert [row["label"] for row in given] == [row["label"] for row in expected]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--task", "ner", "--seed", "3", "x"), "--seed is not an option of --task ner"),
        (
            ("--task", "text-classification", "--greedy", "x"),
            "--greedy is not an option of --task text-class",
        ),
        (("--task", "ner", "--labels", "a", "x"), "--labels is not an option of --task ner"),
        (("--question", "x", "y"), "--question is not an option of --task text-generation"),
        (("--lines", "y"), "--lines is not an option of --task text-generation"),
        (("--task", "translation", "x"), "'translation' is not one of 'text-generation'"),
        (("--task", "text-classification", "--top-k", "0", "x"), "--top-k is 0; give at least 1"),
        (("--task", "question-answering", "x"), "No question: give --question TEXT"),
        (("--task", "question-answering", "--context", "x"), "No question: give --question TEXT"),
        (
            ("--task", "question-answering", "--question", "a", "--context", "b", "c"),
            "--context replaces PROMPT",
        ),
    ],
)
def test_wrong_usage_is_one_line(cli, args, message):
    done = cli("run", *args)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (b"{", "line 1 is not JSON"),
        (b'{"question": "a", "context": "b"}\n[1]', 'line 2 must be {"question": ..., "context": ...}'),
        (b'{"question": "a"}', "You need to provide a dictionary with keys"),
    ],
)
def test_bad_lines_of_json_are_named(cli, models, stdin, message):
    done = cli("run", "--task", "question-answering", "-m", models["qa_outputs"], stdin=stdin)
    assert (done.code, done.out) == (1, "")
    assert message in done.err


def test_a_model_without_the_head_is_one_line(cli, model):
    done = cli("run", "--task", "text-classification", "-m", model, "hello")
    assert (done.code, done.out) == (1, "")
    assert "text-classification needs a GPT2ForSequenceClassification" in done.err
