"""From scores of tokens to entities: the aggregation strategies of token classification.

The rules are Transformers': labels B-X and I-X of one type X that follow each other make one entity, unless the
second begins one with B-.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Entity = dict[str, Any]
ToText = Callable[[list[str]], str]  # tokens as the vocabulary spells them -> text


class AggregationStrategy(enum.Enum):
    """How tokens become entities.

    none: one entity a token. simple: tokens next to each other of one type are one entity. The others first
    give all tokens of a word one label: that of its `first` token, that with the best `average` of scores, or
    that of the token with the highest score (`max`).
    """

    NONE = "none"
    SIMPLE = "simple"
    FIRST = "first"
    AVERAGE = "average"
    MAX = "max"


@dataclass(frozen=True)
class Token:
    """A token with the probabilities of its labels, (N,), and the characters [start, end) it stands for.

    index: its place in the row. is_subword: whether it continues the word of the token before.
    """

    word: str
    scores: npt.NDArray[np.float32]
    start: int
    end: int
    index: int
    is_subword: bool


def aggregate(
    tokens: Sequence[Token], strategy: AggregationStrategy, labels: Callable[[int], str], to_text: ToText
) -> list[Entity]:
    """Return the entities of a row of tokens."""
    if strategy in (AggregationStrategy.NONE, AggregationStrategy.SIMPLE):
        entities = [
            {
                "entity": labels(int(token.scores.argmax())),
                "score": float(token.scores.max()),
                "index": token.index,
                "word": token.word,
                "start": token.start,
                "end": token.end,
            }
            for token in tokens
        ]
        return entities if strategy is AggregationStrategy.NONE else _group(entities, to_text)
    words: list[list[Token]] = []
    for token in tokens:
        if words and token.is_subword:
            words[-1].append(token)
        else:
            words.append([token])
    return _group([_word_entity(word, strategy, labels, to_text) for word in words], to_text)


def drop_overlaps(entities: Sequence[Entity]) -> list[Entity]:
    """Of entities of overlapping windows keep the longer of two that overlap, then the one that scores more."""
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        if not kept or not kept[-1]["start"] <= entity["start"] < kept[-1]["end"]:
            kept.append(entity)
            continue
        length, kept_length = entity["end"] - entity["start"], kept[-1]["end"] - kept[-1]["start"]
        if (length, entity["score"]) > (kept_length, kept[-1]["score"]):
            kept[-1] = entity
    return kept


def _word_entity(
    word: Sequence[Token], strategy: AggregationStrategy, labels: Callable[[int], str], to_text: ToText
) -> Entity:
    if strategy is AggregationStrategy.FIRST:
        scores = word[0].scores
    elif strategy is AggregationStrategy.MAX:
        scores = max(word, key=lambda token: float(token.scores.max())).scores
    else:
        scores = np.mean([token.scores for token in word], axis=0)
    return {
        "entity": labels(int(scores.argmax())),
        "score": float(scores.max()),
        "word": to_text([token.word for token in word]),
        "start": word[0].start,
        "end": word[-1].end,
    }


def _group(entities: Sequence[Entity], to_text: ToText) -> list[Entity]:
    groups: list[list[Entity]] = []
    for entity in entities:
        begins, label = _tag(entity["entity"])
        if groups and not begins and label == _tag(groups[-1][-1]["entity"])[1]:
            groups[-1].append(entity)
        else:
            groups.append([entity])
    return [
        {
            "entity_group": group[0]["entity"].split("-", 1)[-1],
            "score": float(np.mean([entity["score"] for entity in group])),
            "word": to_text([entity["word"] for entity in group]),
            "start": group[0]["start"],
            "end": group[-1]["end"],
        }
        for group in groups
    ]


def _tag(label: str) -> tuple[bool, str]:
    """Return whether a label begins an entity, and its type; a label without B- or I- continues one."""
    if label.startswith(("B-", "I-")):
        return label[0] == "B", label[2:]
    return False, label
