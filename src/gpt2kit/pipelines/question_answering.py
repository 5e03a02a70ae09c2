"""QuestionAnsweringPipeline: the part of a context that answers a question.

Transformers dropped this pipeline in version 5; options and results are those of its version 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpt2kit.errors import PipelineError
from gpt2kit.pipelines.answer_spans import Span, best_spans, probabilities, word_spans
from gpt2kit.pipelines.encode import max_tokens
from gpt2kit.pipelines.judging import JudgingPipeline
from gpt2kit.pipelines.steps import as_tensors, model_part, torch_module
from gpt2kit.pipelines.task_options import TaskOptions

Answer = dict[str, Any]

_EXAMPLE = '{"question": ..., "context": ...}'


@dataclass(frozen=True)
class QuestionAnsweringOptions(TaskOptions):
    """Options of question-answering, with those of TaskOptions.

    top_k (also topk): how many answers a question gives; more than one come as a list.
    max_seq_len: tokens of question and context together, by default 384 or what the model holds; a longer
        context is cut into windows. doc_stride: tokens by which windows overlap, by default 128 or half of
        max_seq_len. max_question_len: tokens of the question; the rest of it is dropped.
    max_answer_len: tokens of an answer.
    handle_impossible_answer: the empty answer takes part. Its score is that of the first token, where training
        puts it, in the window where that is lowest.
    align_to_words: widen an answer to whole words.
    padding: accepted and without effect.
    """

    task: ClassVar[str] = "question-answering"

    top_k: int = 1
    topk: int | None = None
    doc_stride: int | None = None
    max_answer_len: int = 15
    max_seq_len: int | None = None
    max_question_len: int = 64
    handle_impossible_answer: bool = False
    align_to_words: bool = True
    padding: Any = None

    def check(self) -> None:
        """Raise PipelineError for a wrong value."""
        super().check()
        for name in ("top_k", "topk", "max_answer_len"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise PipelineError(f"{name} parameter should be >= 1 (got {value})")
        for name in ("top_k", "topk", "max_answer_len", "max_seq_len", "max_question_len"):
            self.check_integer(name, 1)
        self.check_integer("doc_stride", 0)
        self.check_boolean("handle_impossible_answer", "align_to_words")

    @property
    def num_answers(self) -> int:
        """top_k under either of its names."""
        return self.top_k if self.topk is None else self.topk


@dataclass(frozen=True)
class _Window:
    """A row for the network: the question and a part of the context.

    spans: the characters of the context that each token stands for, None for tokens that are not of the
    context. words: the characters of the word that each token is of.
    """

    ids: list[int]
    spans: list[Span | None]
    words: list[Span | None] = field(default_factory=list)


class QuestionAnsweringPipeline(JudgingPipeline):
    """Finds answers in contexts.

    An answer is {"score", "start", "end", "answer"}: answer is context[start:end] with the space that belongs to
    its first token, score the product of the probabilities of its first and its last token among the
    tokens of the context, summed over windows and places that give the same words.

        >>> pipe(question="Where does Anne live?", context="Anne lives in Bath.")  # doctest: +SKIP
        {'score': 0.98, 'start': 13, 'end': 18, 'answer': ' Bath'}
    """

    task = "question-answering"
    head = "qa_outputs"
    options_class = QuestionAnsweringOptions
    one_input = _EXAMPLE
    after_options = ("top_k", "topk", "max_answer_len", "handle_impossible_answer", "align_to_words")

    def __call__(
        self,
        *inputs: Any,
        question: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
        X: Any = None,
        data: Any = None,
        **options: Any,
    ) -> Any:
        """Answer one question, a list of them, or what can be iterated over; see the class and its options.

        inputs: dicts of question and context, objects with question_text and context_text, a list or an
        iterable of these, or a question and a context as two strings. question, context: strings, or lists of
        equal length, or many questions to one context. X, data: other names of the first input. One example
        gives its answer, also in a list.
        """
        examples = _examples(inputs, question, context, X if data is None else data)
        if isinstance(examples, (list, tuple)) and len(examples) == 1:
            examples = examples[0]
        return self._run(examples, options)

    def _is_one(self, item: Any) -> bool:
        return isinstance(item, dict) or hasattr(item, "question_text")

    def preprocess(self, inputs: Any, **options: Any) -> Any:
        """Yield the windows of an example: tensors (1, T), the example, and the characters behind each token."""
        chosen = self.options_class().updated(options)
        assert isinstance(chosen, QuestionAnsweringOptions)
        question, context = _question_and_context(inputs, 0)
        windows = self._windows(question, context, chosen)
        for number, window in enumerate(windows):
            yield {
                **as_tensors(window.ids),
                "example": {"question": question, "context": context},
                "spans": window.spans,
                "words": window.words,
                "is_last": number == len(windows) - 1,
            }

    def _forward(self, model_inputs: Any, **options: Any) -> Any:
        """Return the logits of an answer's start and end with what came with the inputs."""
        inputs, others = model_part(model_inputs)
        outputs = torch_module(self)(**inputs)
        return {"start": outputs["start_logits"], "end": outputs["end_logits"], **inputs, **others}

    def postprocess(self, model_outputs: Any, **options: Any) -> Any:
        """Return the answers of an example from all its windows."""
        chosen = self.options_class().updated(options)
        assert isinstance(chosen, QuestionAnsweringOptions)
        windows = [
            _Window(output["input_ids"][0].tolist(), output["spans"], output["words"])
            for output in model_outputs
        ]
        logits = [
            np.stack([output[name][0].float().numpy() for name in ("start", "end")], axis=-1)
            for output in model_outputs
        ]
        answers = self._answers(model_outputs[0]["example"]["context"], windows, logits, chosen)
        return answers[0] if len(answers) == 1 else answers

    def _judge(self, inputs: list[Any], options: QuestionAnsweringOptions) -> list[Any]:
        texts = [_question_and_context(item, index) for index, item in enumerate(inputs)]
        windows = [self._windows(*pair, options) for pair in texts]
        outputs = iter(self.network.run([window.ids for group in windows for window in group]))
        results = []
        for (_, context), group in zip(texts, windows, strict=True):
            logits = [next(outputs) for _ in group]
            answers = self._answers(context, group, logits, options)
            results.append(answers[0] if len(answers) == 1 else answers)
        return results

    def _windows(self, question: str, context: str, options: QuestionAnsweringOptions) -> list[_Window]:
        limit = max_tokens(self.tokenizer, self.config.n_positions)
        length = min(limit, 384) if options.max_seq_len is None else options.max_seq_len
        if length > self.config.n_positions:
            raise PipelineError(
                f"max_seq_len is {length}; n_positions is {self.config.n_positions}; lower it"
            )
        question = self._shortened(question, options.max_question_len)
        num_other = len(self.tokenizer(question, context, add_special_tokens=True)["input_ids"]) - len(
            self.tokenizer(context, add_special_tokens=False)["input_ids"]
        )
        room = length - num_other
        if room < 1:
            raise PipelineError(
                f"the question {question!r:.80} has {num_other} tokens and leaves no room for the context; "
                f"max_seq_len is {length}; shorten it, or lower max_question_len"
            )
        stride = options.doc_stride
        if stride is None:
            stride = min(length // 2, 128, room - 1)
        elif stride >= room:
            raise PipelineError(
                f"`doc_stride` ({stride}) is larger than `max_seq_len` ({length}) allows: the question leaves "
                f"{room} tokens, and doc_stride must be less"
            )
        is_question_first = getattr(self.tokenizer, "padding_side", "right") == "right"
        encoded = self.tokenizer(
            [question if is_question_first else context],
            [context if is_question_first else question],
            truncation="only_second" if is_question_first else "only_first",
            max_length=length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        sequence = 1 if is_question_first else 0
        windows = []
        for i, ids in enumerate(encoded["input_ids"]):
            spans: list[Span | None] = [
                (int(start), int(end)) if which == sequence else None
                for (start, end), which in zip(
                    encoded["offset_mapping"][i], encoded.sequence_ids(i), strict=True
                )
            ]
            windows.append(_Window(list(ids), spans, word_spans(spans, encoded.word_ids(i))))
        return windows

    def _shortened(self, question: str, max_length: int) -> str:
        encoded = self.tokenizer([question], add_special_tokens=False, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"][0]
        return question[: offsets[max_length - 1][1]] if len(offsets) > max_length else question

    def _answers(
        self,
        context: str,
        windows: Sequence[_Window],
        logits: Sequence[npt.NDArray[np.float32]],
        options: QuestionAnsweringOptions,
    ) -> list[Answer]:
        num_answers = options.num_answers
        # Aligned to words, several candidates may become one answer.
        num_candidates = num_answers * 2 + 10 if options.align_to_words else num_answers
        answers: dict[str, Answer] = {}
        null_score = np.inf
        cls_token_id = getattr(self.tokenizer, "cls_token_id", None)
        for window, output in zip(windows, logits, strict=True):
            is_context = np.array([span is not None for span in window.spans])
            has_null = options.handle_impossible_answer or window.ids[0] == cls_token_id
            start, end = probabilities(output, is_context, has_null)
            null_score = min(null_score, float(start[0] * end[0])) if has_null else null_score
            for first, last, score in best_spans(
                start, end, is_context, options.max_answer_len, num_candidates
            ):
                spans = window.words if options.align_to_words else window.spans
                begin, finish = spans[first], spans[last]
                assert begin is not None and finish is not None  # both are of the context
                text = context[begin[0] : finish[1]]
                known = answers.setdefault(
                    text.lower(), {"score": 0.0, "start": begin[0], "end": finish[1], "answer": text}
                )
                known["score"] += score
        found = list(answers.values())
        if options.handle_impossible_answer:
            found.append({"score": null_score, "start": 0, "end": 0, "answer": ""})
        return sorted(found, key=lambda answer: -answer["score"])[:num_answers]


def _examples(inputs: tuple[Any, ...], question: Any, context: Any, other: Any) -> Any:
    """Bring the forms that a call takes to one example, a list of them, or what can be iterated over."""
    if inputs:
        if len(inputs) == 1:
            return inputs[0]
        if len(inputs) == 2 and all(isinstance(text, str) for text in inputs):
            return {"question": inputs[0], "context": inputs[1]}
        return list(inputs)
    if other is not None:
        return other
    if question is None or context is None:
        raise PipelineError(f"question-answering needs question= and context=, or dicts {_EXAMPLE}")
    if isinstance(question, str) and isinstance(context, str):
        return {"question": question, "context": context}
    if isinstance(question, (list, tuple)):
        contexts = [context] * len(question) if isinstance(context, str) else list(context)
        if len(contexts) != len(question):
            raise PipelineError(
                f"Questions and contexts don't have the same lengths: {len(question)} and {len(contexts)}"
            )
        return [{"question": q, "context": c} for q, c in zip(question, contexts, strict=True)]
    raise PipelineError(
        "Arguments can't be understood: question and context must be strings or lists of strings"
    )


def _question_and_context(item: Any, index: int) -> tuple[str, str]:
    if isinstance(item, dict):
        if not {"question", "context"} <= item.keys():
            raise PipelineError(
                f"You need to provide a dictionary with keys {{question:..., context:...}}; input {index} has "
                f"{sorted(map(str, item))}"
            )
        pair = item["question"], item["context"]
    else:
        pair = getattr(item, "question_text", None), getattr(item, "context_text", None)
    for name, text in zip(("question", "context"), pair, strict=True):
        if not isinstance(text, str):
            raise PipelineError(f"`{name}` of input {index} must be a string, got {text!r:.80}")
        if not text:
            raise PipelineError(f"`{name}` cannot be empty: it is in input {index}")
    return pair
