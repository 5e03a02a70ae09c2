"""ZeroShotClassificationPipeline: labels chosen at the call, judged by a model of natural language inference."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpt2kit.errors import PipelineError
from gpt2kit.pipelines.encode import check_row, max_tokens
from gpt2kit.pipelines.judging import JudgingPipeline, softmax
from gpt2kit.pipelines.steps import as_tensors, model_part, torch_module
from gpt2kit.pipelines.task_options import TaskOptions


@dataclass(frozen=True)
class ZeroShotOptions(TaskOptions):
    """Options of zero-shot-classification, with those of TaskOptions.

    candidate_labels: a list of labels, or one string with commas between them.
    hypothesis_template: the sentence that a label makes, with {} where the label goes.
    multi_label: judge every label by itself, entailment against contradiction, instead of sharing 1 out.
    multi_class: its name in early versions of Transformers.
    """

    task: ClassVar[str] = "zero-shot-classification"

    candidate_labels: Any = ()
    hypothesis_template: str = "This example is {}."
    multi_label: bool = False
    multi_class: bool | None = None

    def updated(self, given: Mapping[str, Any]) -> ZeroShotOptions:
        """Return these options with others on top."""
        old_name = given.get("multi_class")
        return super().updated(given if old_name is None else {**given, "multi_label": old_name})

    def check(self) -> None:
        """Raise PipelineError for a wrong value; whether there are labels is the call's question."""
        super().check()
        self.check_boolean("multi_label")
        labels = self.candidate_labels
        if not isinstance(labels, (str, list, tuple)) or not all(isinstance(label, str) for label in labels):
            raise PipelineError(f"candidate_labels must be a string or a list of strings, got {labels!r:.80}")
        if not isinstance(self.hypothesis_template, str):
            raise PipelineError(f"hypothesis_template must be a string, got {self.hypothesis_template!r:.80}")

    @property
    def labels(self) -> list[str]:
        """The candidate labels as a list."""
        if isinstance(self.candidate_labels, str):
            return [label.strip() for label in self.candidate_labels.split(",") if label.strip()]
        return list(self.candidate_labels)

    def hypotheses(self) -> list[str]:
        """Return the sentence of each label. Raises PipelineError without labels, or with a bad template."""
        labels = self.labels
        if not labels:
            raise PipelineError(
                "You must include at least one label and at least one sequence: pass candidate_labels"
            )
        try:
            hypotheses = [self.hypothesis_template.format(label) for label in labels]
        except (IndexError, KeyError, ValueError) as error:
            raise PipelineError(
                f"hypothesis_template {self.hypothesis_template!r} cannot take a label ({error}); it needs one {{}}"
            ) from None
        if hypotheses[0] == self.hypothesis_template:
            raise PipelineError(
                f'The provided hypothesis_template "{self.hypothesis_template}" was not able to be formatted '
                "with the target labels. Make sure the passed template includes formatting syntax such as {} "
                "where the label should go."
            )
        return hypotheses


class ZeroShotClassificationPipeline(JudgingPipeline):
    """Judges how well labels fit a text: does the text entail "This example is <label>."?

    A text gives {"sequence": str, "labels": [str], "scores": [float]}, best label first. The entailment label
    is the one of config.label2id whose name begins with "entail"; without one the last is taken, with a
    warning. A text that is too long is truncated, its hypothesis never.

        >>> pipe("I need this phone repaired", candidate_labels=["urgent", "calm"])  # doctest: +SKIP
    """

    task = "zero-shot-classification"
    head = "score"
    options_class = ZeroShotOptions
    after_options = ("multi_label", "multi_class")

    def __init__(self, model: Any, tokenizer: Any = None, **options: Any) -> None:
        super().__init__(model, tokenizer, **options)
        if self.entailment_id == -1:
            warnings.warn(
                "Failed to determine 'entailment' label id from the label2id mapping in the model config. "
                "Setting to -1, the last label. Give the config a label2id that names it.",
                stacklevel=2,
            )

    def __call__(self, sequences: Any, candidate_labels: Any = None, **options: Any) -> Any:
        """Judge one text, a list, or what can be iterated over; see the class and its options."""
        return self._run(sequences, {"candidate_labels": candidate_labels, **options})

    @property
    def entailment_id(self) -> int:
        """The index of the entailment label, or -1."""
        for label, index in (self.config.label2id or {}).items():
            if label.lower().startswith("entail"):
                return int(index)
        return -1

    def preprocess(self, inputs: Any, **options: Any) -> Any:
        """Yield a text with each of its hypotheses: tensors (1, T), the text and the label."""
        chosen = self.options_class().updated(options)
        assert isinstance(chosen, ZeroShotOptions)
        [text] = self._texts([inputs])
        hypotheses = chosen.hypotheses()
        for number, (label, hypothesis) in enumerate(zip(chosen.labels, hypotheses, strict=True)):
            yield {
                **as_tensors(self._row(text, hypothesis, 0)),
                "candidate_label": label,
                "sequence": text,
                "is_last": number == len(hypotheses) - 1,
            }

    def _forward(self, model_inputs: Any, **options: Any) -> Any:
        """Return the logits with what came with the inputs."""
        inputs, others = model_part(model_inputs)
        return {**others, "logits": torch_module(self)(**inputs)["logits"]}

    def postprocess(self, model_outputs: Any, **options: Any) -> Any:
        """Return the record of a text from the logits (1, N) of each label."""
        labels = [output["candidate_label"] for output in model_outputs]
        chosen = self.options_class().updated({**options, "candidate_labels": labels})
        assert isinstance(chosen, ZeroShotOptions)
        logits = np.stack([output["logits"][0].float().numpy() for output in model_outputs])
        return self._record(model_outputs[0]["sequence"], logits, chosen)

    def _judge(self, inputs: list[Any], options: ZeroShotOptions) -> list[Any]:
        hypotheses = options.hypotheses()
        rows = [
            self._row(text, hypothesis, index)
            for index, text in enumerate(self._texts(inputs))
            for hypothesis in hypotheses
        ]
        logits = np.array([output[0] for output in self.network.run(rows, last=True)])
        logits = logits.reshape(len(inputs), len(hypotheses), -1)
        return [self._record(text, scores, options) for text, scores in zip(inputs, logits, strict=True)]

    def _row(self, text: str, hypothesis: str, index: int) -> list[int]:
        """Return the ids of a text and its hypothesis, the text cut where both do not fit."""
        n_positions = self.config.n_positions
        if not text:
            raise PipelineError(f"input {index} is empty: there is no token to judge; leave it out")
        ids: list[int] = self.tokenizer(text, hypothesis)["input_ids"]
        limit = max_tokens(self.tokenizer, n_positions)
        if len(ids) > limit:
            num_other = len(ids) - len(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            if num_other >= limit:
                raise PipelineError(
                    f"the hypothesis {hypothesis!r:.80} has {num_other} tokens, which leave no room for a "
                    f"text; n_positions is {n_positions}; shorten it"
                )
            ids = self.tokenizer(text, hypothesis, truncation="only_first", max_length=limit)["input_ids"]
        check_row(ids, index, n_positions)
        return ids

    def _record(self, text: str, logits: npt.NDArray[np.float32], options: ZeroShotOptions) -> dict[str, Any]:
        entailment = self.entailment_id
        if options.multi_label or len(logits) == 1:
            contradiction = -1 if entailment == 0 else 0
            scores = softmax(logits[:, [contradiction, entailment]])[:, 1]
        else:
            scores = softmax(logits[:, entailment])
        order = np.argsort(-scores, kind="stable")
        labels = options.labels
        return {
            "sequence": text,
            "labels": [labels[i] for i in order],
            "scores": [float(scores[i]) for i in order],
        }
