"""TextClassificationPipeline: the label of a text, or the scores of all labels."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpt2kit.errors import PipelineError
from gpt2kit.pipelines.encode import encode_texts
from gpt2kit.pipelines.judging import JudgingPipeline, softmax
from gpt2kit.pipelines.steps import as_tensors
from gpt2kit.pipelines.task_options import TextOptions

Record = dict[str, Any]


class ClassificationFunction(enum.Enum):
    """What turns the head's outputs into scores."""

    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"
    NONE = "none"


@dataclass(frozen=True)
class TextClassificationOptions(TextOptions):
    """Options of text-classification, with those of TextOptions.

    top_k: how many labels a text gives, best first, as a list; None gives all. Without it a text gives its
        best label.
    function_to_apply: "sigmoid", "softmax" or "none"; "default" goes by the model: none for a regression,
        sigmoid for one label or several at once, else softmax.
    return_all_scores: Transformers 4's way to ask for all labels, in the order of their ids.
    """

    task: ClassVar[str] = "text-classification"
    none_speaks: ClassVar[frozenset[str]] = frozenset({"top_k"})

    top_k: int | str | None = ""
    function_to_apply: str | ClassificationFunction = "default"
    return_all_scores: bool = False

    def check(self) -> None:
        """Raise PipelineError for a wrong value."""
        super().check()
        self.check_boolean("return_all_scores")
        if self.top_k != "":
            self.check_integer("top_k", 1)
        if self.function not in ("default", "sigmoid", "softmax", "none"):
            raise PipelineError(
                "function_to_apply must be 'default', 'sigmoid', 'softmax' or 'none', got "
                f"{self.function_to_apply!r}"
            )

    @property
    def function(self) -> str:
        """The name of the function to apply."""
        return str(getattr(self.function_to_apply, "value", self.function_to_apply)).lower()


class TextClassificationPipeline(JudgingPipeline):
    """Classifies texts, or pairs of texts as {"text": ..., "text_pair": ...}.

    A record is {"label": str, "score": float}. Without top_k in the call, one string gives a list of one
    result, and in a list each gives its result: Transformers' form.

        >>> pipe("Director tried too much.")  # doctest: +SKIP
        [{'label': 'NEGATIVE', 'score': 0.996}]
    """

    task = "text-classification"
    head = "score"
    options_class = TextClassificationOptions
    one_input = 'a string or a pair {"text": ..., "text_pair": ...}'
    after_options = ("top_k", "function_to_apply", "return_all_scores")

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Classify one input, a list, or what can be iterated over; see the class and its options."""
        result = self._run(inputs, options)
        return [result] if isinstance(inputs, str) and "top_k" not in options else result

    def preprocess(self, inputs: Any, **options: Any) -> Any:
        """Return the ids and the mask of a text or pair, as tensors (1, T)."""
        text, pair = _pair(inputs, 0)
        how = self.options_class().updated(options).tokenizer_options()
        rows = encode_texts(self.tokenizer, [text], [pair], self.config.n_positions, **how)
        return as_tensors(rows[0])

    def postprocess(self, model_outputs: Any, **options: Any) -> Any:
        """Return the record of "logits" (1, N), or with top_k a list of records."""
        chosen = self.options_class().updated(options)
        assert isinstance(chosen, TextClassificationOptions)
        return self._record(model_outputs["logits"][0].float().numpy(), chosen)

    def _is_one(self, item: Any) -> bool:
        return isinstance(item, (str, dict))

    def _judge(self, inputs: list[Any], options: TextClassificationOptions) -> list[Any]:
        texts, pairs = (
            zip(*[_pair(item, i) for i, item in enumerate(inputs)], strict=True) if inputs else ((), ())
        )
        rows = encode_texts(
            self.tokenizer, texts, pairs, self.config.n_positions, **options.tokenizer_options()
        )
        return [self._record(logits[0], options) for logits in self.network.run(rows, last=True)]

    def _record(self, logits: npt.NDArray[np.float32], options: TextClassificationOptions) -> Any:
        scores = _scores(logits, self._function(options))
        if options.top_k == "" and not options.return_all_scores:
            best = int(scores.argmax())
            return {"label": self._label(best), "score": float(scores[best])}
        records: list[Record] = [
            {"label": self._label(i), "score": float(score)} for i, score in enumerate(scores)
        ]
        if isinstance(options.top_k, str):
            return records
        records.sort(key=lambda record: -record["score"])
        return records[: options.top_k]

    def _function(self, options: TextClassificationOptions) -> str:
        if options.function != "default":
            return options.function
        problem, num_labels = self.config.problem_type, self.config.num_labels
        if problem == "regression":
            return "none"
        return "sigmoid" if problem == "multi_label_classification" or num_labels == 1 else "softmax"


def _scores(logits: npt.NDArray[np.float32], function: str) -> npt.NDArray[np.float32]:
    if function == "softmax":
        return softmax(logits)
    if function == "sigmoid":
        with np.errstate(over="ignore"):  # exp of a large number is infinite, and 1 / infinity is the 0 meant
            return np.asarray(1.0 / (1.0 + np.exp(-logits)))
    return logits


def _pair(item: Any, index: int) -> tuple[str, str | None]:
    """Return a text and its pair, or None, of one input."""
    if isinstance(item, str):
        return item, None
    if isinstance(item, dict):
        unknown = sorted(item.keys() - {"text", "text_pair"})
        text, pair = item.get("text"), item.get("text_pair")
        if not unknown and isinstance(text, str) and (pair is None or isinstance(pair, str)):
            return text, pair
    # Transformers' older form of a pair: [["text", "pair"]]
    elif isinstance(item, list) and len(item) == 1 and isinstance(item[0], list) and len(item[0]) == 2:
        text, pair = item[0]
        if isinstance(text, str) and isinstance(pair, str):
            return text, pair
    raise PipelineError(
        f"input {index} must be a string, or a dictionary "
        f'`{{"text": "My text", "text_pair": "My pair"}}` for a text pair, got {item!r:.80}'
    )
