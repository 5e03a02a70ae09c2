"""TokenClassificationPipeline: a label for every token, or the entities that they make."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpt2kit.errors import PipelineError
from gpt2kit.pipelines.encode import check_row, max_tokens
from gpt2kit.pipelines.entities import AggregationStrategy, Entity, Token, aggregate, drop_overlaps
from gpt2kit.pipelines.judging import JudgingPipeline, softmax
from gpt2kit.pipelines.steps import as_tensors, model_part, torch_module
from gpt2kit.pipelines.task_options import TaskOptions

Span = tuple[int, int]  # characters


@dataclass(frozen=True)
class TokenClassificationOptions(TaskOptions):
    """Options of token-classification, with those of TaskOptions.

    aggregation_strategy: "none", "simple", "first", "average" or "max"; see AggregationStrategy.
    grouped_entities, ignore_subwords: Transformers' older way to choose it: "simple" for the first alone, "first"
        for both.
    ignore_labels: labels, or types of entities, that are left out.
    stride: cut a long text into windows that overlap by this many tokens, instead of truncating it; needs an
        aggregation strategy.
    is_split_into_words: the inputs are lists of words; delimiter stands between them in the text that start
        and end count in.
    offset_mapping: (start, end) of each token of the input, or a list of these, in place of the tokenizer's.
    """

    task: ClassVar[str] = "token-classification"

    aggregation_strategy: str | AggregationStrategy = AggregationStrategy.NONE
    ignore_labels: Sequence[str] = ("O",)
    stride: int | None = None
    is_split_into_words: bool = False
    delimiter: str = " "
    offset_mapping: Any = None
    grouped_entities: bool | None = None
    ignore_subwords: bool | None = None

    def updated(self, given: Mapping[str, Any]) -> TokenClassificationOptions:
        """Return these options with others on top."""
        grouped, whole = given.get("grouped_entities"), given.get("ignore_subwords")
        if (grouped is None and whole is None) or given.get("aggregation_strategy") is not None:
            return super().updated(given)
        strategy = ("first" if whole else "simple") if grouped else "none"
        return super().updated({**given, "aggregation_strategy": strategy})

    def check(self) -> None:
        """Raise PipelineError for a wrong value."""
        super().check()
        self.check_boolean("is_split_into_words")
        self.check_integer("stride", 0)
        if isinstance(self.ignore_labels, str) or not all(isinstance(x, str) for x in self.ignore_labels):
            raise PipelineError(f"ignore_labels must be a list of strings, got {self.ignore_labels!r:.80}")
        if not isinstance(self.delimiter, str):
            raise PipelineError(f"delimiter must be a string, got {self.delimiter!r:.80}")
        if self.stride is not None and self.strategy is AggregationStrategy.NONE:
            raise PipelineError(
                '`stride` was provided to process all the text but `aggregation_strategy="none"`, please '
                "select another one instead."
            )

    @property
    def strategy(self) -> AggregationStrategy:
        """The strategy as a member of AggregationStrategy."""
        value = getattr(self.aggregation_strategy, "value", self.aggregation_strategy)
        try:
            return AggregationStrategy(str(value).lower())
        except ValueError:
            allowed = ", ".join(repr(member.value) for member in AggregationStrategy)
            raise PipelineError(f"aggregation_strategy must be one of {allowed}, got {value!r}") from None


@dataclass(frozen=True)
class _Window:
    """A row for the network: a whole input, or a part of a long one. offsets count in the input's text."""

    ids: list[int]
    offsets: list[Span]
    is_special: list[int]


class TokenClassificationPipeline(JudgingPipeline):
    """Labels the tokens of texts, such as the names in them.

    A text gives a list of {"entity", "score", "index", "word", "start", "end"}, one a token; with an
    aggregation strategy of {"entity_group", "score", "word", "start", "end"}, one an entity. Words are found by
    the spaces between them. A text that is too long is truncated with a warning; see `stride`.

        >>> pipe("Anne lives in Bath", aggregation_strategy="simple")  # doctest: +SKIP
    """

    task = "token-classification"
    head = "classifier"
    options_class = TokenClassificationOptions
    after_options = ("aggregation_strategy", "grouped_entities", "ignore_subwords", "ignore_labels")

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Label one text, a list, or what can be iterated over; see the class and its options.

        One list of words, with is_split_into_words, is taken as a list of one: Transformers' form.
        """
        call = self._defaults.updated(options)
        assert isinstance(call, TokenClassificationOptions)
        if call.is_split_into_words and _is_words(inputs):
            inputs = [inputs]
        return self._run(inputs, options)

    def preprocess(self, inputs: Any, **options: Any) -> Any:
        """Yield the windows of an input: tensors (1, T), and what postprocess needs beside them."""
        strategy = {"aggregation_strategy": "simple"} if options.get("stride") is not None else {}
        chosen = self.options_class().updated({**options, **strategy})
        assert isinstance(chosen, TokenClassificationOptions)
        text = _text(inputs, 0, chosen)
        windows = self._windows(inputs, 0, chosen)
        if chosen.offset_mapping is not None:
            [windows] = _replace_offsets([windows], chosen.offset_mapping)
        for number, window in enumerate(windows):
            yield {
                **as_tensors(window.ids),
                "offset_mapping": window.offsets,
                "special_tokens_mask": window.is_special,
                "sentence": text,
                "is_last": number == len(windows) - 1,
            }

    def _forward(self, model_inputs: Any, **options: Any) -> Any:
        """Return the logits with what came with the inputs."""
        inputs, others = model_part(model_inputs)
        logits = torch_module(self)(**inputs)["logits"]
        return {"logits": logits, "input_ids": inputs["input_ids"], **others}

    def postprocess(self, model_outputs: Any, **options: Any) -> Any:
        """Return the entities in all windows of an input."""
        chosen = self.options_class().updated(options)
        assert isinstance(chosen, TokenClassificationOptions)
        entities: list[Entity] = []
        for output in model_outputs:
            window = _Window(
                output["input_ids"][0].tolist(), output["offset_mapping"], output["special_tokens_mask"]
            )
            scores = softmax(output["logits"][0].float().numpy())
            entities += self._entities(output["sentence"], window, scores, chosen)
        return drop_overlaps(entities) if len(model_outputs) > 1 else entities

    def _judge(self, inputs: list[Any], options: TokenClassificationOptions) -> list[Any]:
        texts = [_text(item, index, options) for index, item in enumerate(inputs)]
        windows = [self._windows(item, index, options) for index, item in enumerate(inputs)]
        if options.offset_mapping is not None:
            windows = _replace_offsets(windows, options.offset_mapping)
        outputs = iter(self.network.run([window.ids for group in windows for window in group]))
        results = []
        for text, group in zip(texts, windows, strict=True):
            entities: list[Entity] = []
            for window in group:
                entities += self._entities(text, window, softmax(next(outputs)), options)
            results.append(drop_overlaps(entities) if len(group) > 1 else entities)
        return results

    def _windows(self, item: Any, index: int, options: TokenClassificationOptions) -> list[_Window]:
        limit = max_tokens(self.tokenizer, self.config.n_positions)
        if options.stride is not None and options.stride >= limit:
            raise PipelineError(
                f"`stride` must be less than `tokenizer.model_max_length` and n_positions: less than {limit}, "
                f"got {options.stride}"
            )
        encoded = self.tokenizer(
            [item],
            is_split_into_words=options.is_split_into_words,
            truncation=True,
            max_length=limit,
            stride=options.stride or 0,
            return_overflowing_tokens=True,
            return_special_tokens_mask=True,
            return_offsets_mapping=True,
        )
        rows = encoded["input_ids"]
        check_row(rows[0], index, self.config.n_positions)
        if options.stride is None and len(rows) > 1:
            warnings.warn(
                f"input {index} is longer than {limit} tokens; what follows them is not labelled: pass stride= "
                "and an aggregation_strategy to label all of it",
                stacklevel=2,
            )
            rows = rows[:1]
        windows = []
        for i, ids in enumerate(rows):
            offsets = [(int(start), int(end)) for start, end in encoded["offset_mapping"][i]]
            if options.is_split_into_words:
                offsets = _in_text(offsets, encoded.word_ids(i), item, options.delimiter)
            windows.append(_Window(list(ids), offsets, list(encoded["special_tokens_mask"][i])))
        return windows

    def _entities(
        self,
        text: str,
        window: _Window,
        scores: npt.NDArray[np.float32],
        options: TokenClassificationOptions,
    ) -> list[Entity]:
        words = self.tokenizer.convert_ids_to_tokens(window.ids)
        tokens = []
        for index, (token_id, word, (start, end)) in enumerate(
            zip(window.ids, words, window.offsets, strict=True)
        ):
            if window.is_special[index]:
                continue
            is_unknown = token_id == self.tokenizer.unk_token_id
            tokens.append(
                Token(
                    word=text[start:end] if is_unknown else word,
                    scores=scores[index],
                    start=start,
                    end=end,
                    index=index,
                    is_subword=not is_unknown and start > 0 and " " not in text[start - 1 : start + 1],
                )
            )
        entities = aggregate(tokens, options.strategy, self._label, self.tokenizer.convert_tokens_to_string)
        ignored = set(options.ignore_labels)
        return [
            entity
            for entity in entities
            if entity.get("entity") not in ignored and entity.get("entity_group") not in ignored
        ]


NerPipeline = TokenClassificationPipeline  # Transformers' other name


def _is_words(item: Any) -> bool:
    return isinstance(item, (list, tuple)) and len(item) > 0 and all(isinstance(word, str) for word in item)


def _text(item: Any, index: int, options: TokenClassificationOptions) -> str:
    """Return the text that offsets count in. Raises PipelineError for what is no input."""
    if options.is_split_into_words:
        if not _is_words(item):
            raise PipelineError(
                f"input {index} must be a list of words when `is_split_into_words=True`, got {item!r:.80}"
            )
        return options.delimiter.join(item)
    if not isinstance(item, str):
        raise PipelineError(
            f"input {index} must be a string when `is_split_into_words=False`, got {item!r:.80}"
        )
    return item


def _in_text(
    offsets: list[Span], word_ids: Sequence[int | None], words: Sequence[str], delimiter: str
) -> list[Span]:
    """Turn offsets in words into offsets in the words joined."""
    starts = [0, *accumulate(len(word) + len(delimiter) for word in words)]
    return [
        (start, end) if word is None else (start + starts[word], end + starts[word])
        for (start, end), word in zip(offsets, word_ids, strict=True)
    ]


def _replace_offsets(windows: list[list[_Window]], given: Any) -> list[list[_Window]]:
    per_input = [given] if given and isinstance(given[0], tuple) else given
    if len(per_input) != len(windows):
        raise PipelineError(
            f"offset_mapping should have the same batch size as the input: got {len(per_input)} for "
            f"{len(windows)} inputs"
        )
    replaced = []
    for index, (group, offsets) in enumerate(zip(windows, per_input, strict=True)):
        window = group[0]
        if len(group) > 1 or len(offsets) != len(window.ids):
            raise PipelineError(
                f"offset_mapping has {len(offsets)} pairs for input {index}, which has {len(window.ids)} tokens"
                f" in {len(group)} windows; give one pair a token, for texts of one window"
            )
        replaced.append([_Window(window.ids, [(int(a), int(b)) for a, b in offsets], window.is_special)])
    return replaced
