"""Pipelines with steps of a user's own: the same subclass of our pipelines and of Transformers', the same results."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import gpt2kit
from fakes import write_tiny_model
from gpt2kit.errors import MissingDependencyError, PipelineError
from gpt2kit.pipelines import Pipeline

TEXTS = ["hello there", "a second and longer text, for once", "x"]
LIBRARIES = (gpt2kit, transformers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labelled")
    write_tiny_model(path, head="score", num_labels=3)
    return path


def pipes(folder: Path, make: Any, task: str, **options: Any) -> list[Any]:
    """A pipeline of each library, of the class that `make` derives from its base."""
    name = {
        "text-classification": "TextClassificationPipeline",
        "feature-extraction": "FeatureExtractionPipeline",
        "token-classification": "TokenClassificationPipeline",
        "zero-shot-classification": "ZeroShotClassificationPipeline",
        "text-generation": "TextGenerationPipeline",
    }[task]
    return [
        library.pipeline(
            task,
            model=str(folder),
            pipeline_class=make(getattr(library, name)),
            device="cpu",
            dtype="float32",
            **options,
        )
        for library in LIBRARIES
    ]


def assert_close(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_close(ours[key], theirs[key])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_close(a, b)
    else:
        assert ours == (pytest.approx(theirs, abs=1e-5) if isinstance(theirs, float) else theirs)


def test_a_result_of_ones_own(folder: Path) -> None:
    def make(base: Any) -> Any:
        class Logits(base):
            def postprocess(self, model_outputs, **options):  # type: ignore[no-untyped-def]
                record = super().postprocess(model_outputs, **options)
                return {"first": model_outputs["logits"][0].tolist(), "record": record}

        return Logits

    ours, theirs = pipes(folder, make, "text-classification")
    assert_close(ours(TEXTS), theirs(TEXTS))
    assert_close(ours(TEXTS, top_k=2), theirs(TEXTS, top_k=2))
    assert_close(list(ours(iter(TEXTS))), [theirs(text)[0] for text in TEXTS])


def test_parameters_of_ones_own(folder: Path) -> None:
    """The example of Transformers' page on custom pipelines: a second text, and softmax by hand."""

    def make(base: Any) -> Any:
        class Pairs(base):
            def _sanitize_parameters(self, **kwargs):  # type: ignore[no-untyped-def]
                return ({"second_text": kwargs["second_text"]} if "second_text" in kwargs else {}), {}, {}

            def preprocess(self, text, second_text=None):  # type: ignore[no-untyped-def]
                return self.tokenizer(text, text_pair=second_text, return_tensors="pt")

            def _forward(self, model_inputs):  # type: ignore[no-untyped-def]
                return self.model(**model_inputs)

            def postprocess(self, model_outputs):  # type: ignore[no-untyped-def]
                best = torch.softmax(model_outputs.logits[0], -1).argmax().item()
                logits = model_outputs.logits.squeeze().tolist()
                return {"label": self.model.config.id2label[best], "logits": logits}

        return Pairs

    ours, theirs = pipes(folder, make, "text-classification")
    assert_close(ours("one", second_text="two"), theirs("one", second_text="two"))
    assert_close(ours(TEXTS), theirs(TEXTS))
    assert_close(ours(TEXTS, batch_size=2), theirs(TEXTS))


def test_a_pipeline_from_nothing(folder: Path) -> None:
    """A subclass of Pipeline itself, over models that are loaded already."""

    def make(base: Any) -> Any:
        class Lengths(base):
            def _sanitize_parameters(self, factor=1, **kwargs):  # type: ignore[no-untyped-def]
                return {}, {"factor": factor}, {}

            def preprocess(self, text):  # type: ignore[no-untyped-def]
                return self.tokenizer(text, return_tensors="pt")

            def _forward(self, model_inputs, factor):  # type: ignore[no-untyped-def]
                assert not torch.is_grad_enabled()
                logits = self.model(**model_inputs).logits
                return {"logits": logits * factor, "length": model_inputs["input_ids"].shape[1]}

            def postprocess(self, model_outputs):  # type: ignore[no-untyped-def]
                return {"sum": model_outputs["logits"].sum().item(), "length": model_outputs["length"]}

        return Lengths

    results = []
    for library in LIBRARIES:
        model = library.GPT2ForSequenceClassification.from_pretrained(folder)
        tokenizer = library.AutoTokenizer.from_pretrained(folder)
        pipe = make(library.Pipeline)(model=model, tokenizer=tokenizer, task="lengths", factor=2)
        assert pipe.task == "lengths"
        results.append([pipe(TEXTS), pipe(TEXTS, factor=3), pipe(TEXTS[0])])
    assert_close(*results)


def test_each_task_gives_its_result_step_by_step(folder: Path, tmp_path: Path) -> None:
    """The steps that are not replaced do what the pipeline does without them."""

    def touched(base: Any) -> Any:
        class Touched(base):
            def postprocess(self, model_outputs, **options):  # type: ignore[no-untyped-def]
                return super().postprocess(model_outputs, **options)

        return Touched

    calls: dict[str, tuple[str | None, Any, list[dict[str, Any]]]] = {
        "text-classification": ("score", TEXTS, [{}, {"top_k": None}, {"function_to_apply": "sigmoid"}]),
        "feature-extraction": (None, TEXTS, [{}, {"truncation": True}]),
        "token-classification": (
            "classifier",
            TEXTS,
            [{}, {"aggregation_strategy": "simple"}, {"aggregation_strategy": "max", "stride": 1}],
        ),
        "zero-shot-classification": (
            "score",
            TEXTS,
            [{"candidate_labels": ["a", "b"]}, {"candidate_labels": "a,b", "multi_label": True}],
        ),
        "question-answering": (
            "qa_outputs",
            [
                {"question": "what?", "context": "a long context it is " * 3},
                {"question": "b", "context": "c d"},
            ],
            [{}, {"top_k": 2, "max_seq_len": 20, "doc_stride": 2}, {"handle_impossible_answer": True}],
        ),
        "text-generation": (
            None,
            TEXTS,
            [
                {"max_new_tokens": 4, "do_sample": False},
                {"max_new_tokens": 3, "num_beams": 2, "num_return_sequences": 2, "do_sample": False},
                {"max_new_tokens": 3, "do_sample": False, "return_full_text": False, "prefix": "so "},
                {"max_new_tokens": 3, "do_sample": False, "return_tensors": True},
                {"max_new_tokens": 3, "do_sample": True, "seed": 3},
            ],
        ),
    }
    for task, (head, inputs, options) in calls.items():
        path = tmp_path / task
        labels = {"num_labels": 3} if head in ("score", "classifier") else {}
        write_tiny_model(path, head=head, **labels)
        plain = gpt2kit.pipeline(task, model=path)
        stepwise = gpt2kit.pipeline(task, model=path, pipeline_class=touched(type(plain)))
        for given in options:
            assert_close(stepwise(inputs, **given), plain(inputs, **given))
            assert_close(stepwise(inputs[0], **given), plain(inputs[0], **given))
        with pytest.raises((PipelineError, gpt2kit.errors.GenerationError)):
            stepwise(inputs, no_such_option=1)


def test_a_step_put_on_one_pipeline(folder: Path) -> None:
    model = gpt2kit.GPT2ForSequenceClassification.from_pretrained(folder)
    pipe = gpt2kit.pipeline("text-classification", model=model, tokenizer=folder)
    pipe.postprocess = lambda outputs, **options: outputs["logits"].shape
    assert pipe(TEXTS) == [(1, 3)] * 3
    del pipe.postprocess
    assert pipe(TEXTS)[0].keys() == {"label", "score"}


def test_steps_need_a_torch_model(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(gpt2kit.TextClassificationPipeline):
        def postprocess(self, model_outputs: Any, **options: Any) -> Any:
            return model_outputs

    with pytest.raises(PipelineError, match="Own has steps of its own: only engine='torch' runs these"):
        gpt2kit.pipeline("text-classification", model=folder, pipeline_class=Own, engine="native")
    native = gpt2kit.pipeline("text-classification", model=folder)
    with pytest.raises(PipelineError, match="step by step, on a torch model"):
        native.forward(native.preprocess("text"))
    monkeypatch.setattr("gpt2kit.engine.load.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"gpt2kit\[torch\]"):
        gpt2kit.pipeline("text-classification", model=folder, pipeline_class=Own)


def test_a_step_that_is_missing_is_named(folder: Path) -> None:
    class Half(Pipeline):
        def _sanitize_parameters(self, **options: Any) -> Any:
            return {}, {}, {}

    model = gpt2kit.GPT2ForSequenceClassification.from_pretrained(folder)
    with pytest.raises(NotImplementedError, match="Half needs a method preprocess"):
        Half(model, gpt2kit.AutoTokenizer.from_pretrained(folder))("text")
