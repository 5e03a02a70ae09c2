"""What all tasks that judge texts have in common: forms of input, options, torch, saving."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from gpt2kit.engine import load_engine
from gpt2kit.engine.heads import EngineWithHead
from gpt2kit.errors import CheckpointError, EngineError, PipelineError
from gpt2kit.pipelines import (
    KeyDataset,
    KeyPairDataset,
    Pipeline,
    TextClassificationPipeline,
    device,
    pipeline,
)

TEXTS = ["hello world", "a", "she was not a woman of many words", "hello", "  two  "]
OPTIONS = {"zero-shot-classification": {"candidate_labels": ["red", "green"]}}
QA = "question-answering"
TASKS = [
    "feature-extraction",
    "text-classification",
    "token-classification",
    "zero-shot-classification",
    QA,
]
EXAMPLES = [{"question": "who was she?", "context": text} for text in TEXTS]


def inputs_of(task):
    return EXAMPLES if task == QA else TEXTS


@pytest.fixture(scope="module", params=TASKS)
def pipe(request, folders):
    return pipeline(request.param, model=folders[request.param], **OPTIONS.get(request.param, {}))


def flat(value):
    """Numbers and texts of a result in order, for comparison to the bit."""
    return json.dumps(value)


def test_a_list_gives_to_the_bit_what_each_input_gives_alone(pipe):
    inputs = inputs_of(pipe.task)
    together = pipe(inputs)
    alone = [pipe(text) for text in inputs]
    if pipe.task == "text-classification":  # one string gives a list of one: Transformers' form
        alone = [record for (record,) in alone]
    assert len(together) == len(inputs)
    assert flat(together) == flat(alone)
    assert flat(pipe(tuple(inputs))) == flat(together)
    assert pipe([]) == []


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_a_generator_gives_an_iterator_that_reads_batch_size_inputs_at_once(pipe, batch_size):
    inputs, taken = inputs_of(pipe.task), []

    def source():
        for text in inputs:
            taken.append(text)
            yield text

    results = pipe(source(), batch_size=batch_size)
    assert taken == []
    first = next(results)
    assert len(taken) == min(batch_size, len(inputs))
    assert flat([first, *results]) == flat(pipe(inputs))


def test_a_dataset_is_anything_with_a_length_and_items(pipe):
    inputs = inputs_of(pipe.task)

    class Rows:
        def __len__(self):
            return len(inputs)

        def __getitem__(self, index):
            return {"text": inputs[index % len(inputs)]}  # never an IndexError

    results = pipe(KeyDataset(Rows(), "text"), batch_size=2, num_workers=4)
    assert len(results) == len(inputs)
    assert flat(list(results)) == flat(pipe(inputs))


def test_a_torch_model_gives_the_same(pipe, folders):
    pytest.importorskip("torch")
    inputs = inputs_of(pipe.task)
    options = OPTIONS.get(pipe.task, {})
    other = pipeline(pipe.task, model=folders[pipe.task], engine="torch", **options)
    assert_close(other(inputs), pipe(inputs))
    again = type(pipe)(other.model, other.tokenizer, device="cpu", **options)
    assert again.model is other.model
    assert_close(again(inputs), pipe(inputs))
    assert str(other.device) == "cpu"


def assert_close(given, expected):
    if isinstance(expected, dict):
        assert given.keys() == expected.keys()
        given, expected = list(given.values()), list(expected.values())
    if isinstance(expected, list):
        assert len(given) == len(expected)
        for a, b in zip(given, expected, strict=True):
            assert_close(a, b)
    elif isinstance(expected, float):
        assert given == pytest.approx(expected, abs=2e-5)
    else:
        assert given == expected


def test_a_saved_pipeline_gives_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "saved")
    inputs = inputs_of(pipe.task)
    options = OPTIONS.get(pipe.task, {})
    assert flat(pipeline(pipe.task, model=tmp_path / "saved", **options)(inputs)) == flat(pipe(inputs))


def test_the_task_may_be_left_to_the_model(pipe, folders):
    other = pipeline(model=folders[pipe.task])
    if pipe.task in ("text-classification", "token-classification", QA):
        assert other.task == pipe.task
    else:  # a language model's folder, or a classifier's
        assert other.task in ("text-generation", "text-classification")


def test_model_tokenizer_and_config_are_attributes(pipe):
    assert pipe.model.config is pipe.config
    assert pipe.tokenizer.decode(pipe.tokenizer("hello")["input_ids"]) == "hello"
    assert isinstance(pipe, Pipeline)
    assert repr(pipe).startswith(f"{type(pipe).__name__}(model=")
    assert flat(pipe.predict(inputs_of(pipe.task)[:2])) == flat(pipe.transform(inputs_of(pipe.task)[:2]))


def test_an_unknown_option_is_named_with_the_nearest_that_there_is(pipe, folders):
    text = inputs_of(pipe.task)[0]
    with pytest.raises(
        PipelineError, match=f"{pipe.task} has no option 'batch_sise'; did you mean batch_size"
    ):
        pipe(text, batch_sise=3)
    with pytest.raises(PipelineError, match=f"{pipe.task} has no option 'xyz'; its options are batch_size"):
        pipeline(pipe.task, model=folders[pipe.task], xyz=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an int of at least 1, got 0"),
        ({"batch_size": 1.5}, "batch_size must be an int"),
        ({"num_workers": -1}, "num_workers must be an int of at least 0"),
    ],
)
def test_wrong_values_of_common_options_are_refused(pipe, options, message):
    with pytest.raises(PipelineError, match=message):
        pipe(inputs_of(pipe.task)[0], **options)


@pytest.mark.parametrize("bad", [3, None, 2.5, b"bytes", object()])
def test_what_is_no_input_is_refused(pipe, bad):
    with pytest.raises(PipelineError, match=r"must be|needs question="):
        pipe(bad) if bad is not None or pipe.task != QA else pipe()
    with pytest.raises(PipelineError, match=r"input 1 must be|`question` of input 1"):
        pipe([inputs_of(pipe.task)[0], bad])


def test_an_empty_text_is_one_clear_error(pipe):
    empty = {"question": "a", "context": ""} if pipe.task == QA else ""
    with pytest.raises(PipelineError, match=r"input 1 is empty|cannot be empty: it is in input 1"):
        pipe([inputs_of(pipe.task)[0], empty])


def test_pairs_of_a_dataset_are_text_pairs(folders):
    pipe = pipeline("sentiment-analysis", model=folders["text-classification"])
    rows = [{"a": "hello", "b": "world"}, {"a": "x", "b": "y z"}]
    expected = pipe([{"text": row["a"], "text_pair": row["b"]} for row in rows])
    assert list(pipe(KeyPairDataset(rows, "a", "b"))) == expected
    assert list(KeyDataset(rows, "b")[i] for i in range(2)) == ["world", "y z"]


@pytest.mark.parametrize("task", TASKS[1:])
def test_a_model_without_the_head_is_refused_with_what_is_needed(task, folders):
    for options in ({}, {"engine": "torch"}):
        with pytest.raises(CheckpointError, match=rf"has no tensor .*: {task} needs a GPT2For"):
            pipeline(task, model=folders["text-generation"], **options)


def test_an_engine_has_no_head(folders, monkeypatch):
    monkeypatch.setattr(device, "_accelerator", lambda: None)
    engine = load_engine(folders["text-classification"])
    tokenizer = str(folders["text-classification"])
    with pytest.raises(PipelineError, match="an engine has no head, and text-classification needs one"):
        pipeline("text-classification", model=engine, tokenizer=tokenizer)
    features = pipeline("feature-extraction", model=engine, tokenizer=tokenizer)
    assert len(features("hello")[0]) == 1
    with pytest.raises(PipelineError, match="made from an engine, which has no files"):
        features.save_pretrained("nowhere")
    with pytest.raises(EngineError, match="device 'cuda:0' is not available"):
        TextClassificationPipeline(EngineWithHead(engine), object(), device="cuda:0")


def test_a_subclass_is_made_in_place_of_the_task_s_own_class(folders):
    class Shouting(TextClassificationPipeline):
        def __call__(self, inputs, **options):
            return str(super().__call__(inputs, **options)).upper()

    pipe = pipeline("text-classification", model=folders["text-classification"], pipeline_class=Shouting)
    assert "LABEL" in pipe("hello")
    with pytest.raises(PipelineError, match="pipeline_class must be a subclass"):
        pipeline("text-classification", model=folders["text-classification"], pipeline_class=dict)


@pytest.mark.parametrize("task", [*TASKS, "text-generation"])
def test_no_torch_is_imported_where_no_torch_model_is_given(task, folders):
    text = EXAMPLES[0] if task == QA else "hello"
    options = OPTIONS.get(task, {})
    code = (
        "import sys\nfrom gpt2kit import pipeline\n"
        f"pipeline({task!r}, model={str(folders[task])!r}, device=0, **{options!r})({text!r})\n"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_generating_loads_no_other_task_and_every_name_is_there():
    code = (
        "import sys, gpt2kit.pipelines as p\n"
        "assert 'gpt2kit.pipelines.judging' not in sys.modules\n"
        "assert all(getattr(p, name) for name in p.__all__)\n"
        "assert p.NerPipeline is p.TokenClassificationPipeline\n"
        "assert not hasattr(p, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
