"""Aggregation of tokens into entities, on scores written out."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2kit.pipelines.entities import AggregationStrategy, Token, aggregate, drop_overlaps

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "PLAIN"]


def tokens(*spec):
    """Tokens of (text, label, score, is_subword); the rest of the probability is spread evenly."""
    made, position = [], 0
    for index, (text, label, score, is_subword) in enumerate(spec):
        scores = np.full(len(LABELS), (1 - score) / (len(LABELS) - 1), dtype=np.float32)
        scores[LABELS.index(label)] = score
        made.append(Token(text, scores, position, position + len(text), index, is_subword))
        position += len(text)
    return made


def run(strategy, *spec):
    entities = aggregate(tokens(*spec), AggregationStrategy(strategy), LABELS.__getitem__, "".join)
    return [
        (e.get("entity_group") or e["entity"], e["word"], round(e["score"], 4), e["start"], e["end"])
        for e in entities
    ]


SPEC = [
    ("An", "B-PER", 0.9, False),
    ("ne", "O", 0.6, True),
    (" E", "I-PER", 0.5, False),
    ("l", "B-LOC", 0.7, True),
]


def test_none_gives_every_token():
    assert run("none", *SPEC) == [
        ("B-PER", "An", 0.9, 0, 2),
        ("O", "ne", 0.6, 2, 4),
        ("I-PER", " E", 0.5, 4, 6),
        ("B-LOC", "l", 0.7, 6, 7),
    ]


def test_simple_joins_neighbours_of_one_type():
    assert run("simple", *SPEC) == [
        ("PER", "An", 0.9, 0, 2),
        ("O", "ne", 0.6, 2, 4),
        ("PER", " E", 0.5, 4, 6),
        ("LOC", "l", 0.7, 6, 7),
    ]
    joined = [("a", "B-PER", 0.8, False), ("b", "I-PER", 0.6, False), ("c", "B-PER", 0.9, False)]
    assert run("simple", *joined) == [("PER", "ab", 0.7, 0, 2), ("PER", "c", 0.9, 2, 3)]
    assert run("simple", ("a", "PLAIN", 0.8, False), ("b", "PLAIN", 0.6, False)) == [
        ("PLAIN", "ab", 0.7, 0, 2)
    ]


def test_first_gives_a_word_the_label_of_its_first_token():
    assert run("first", *SPEC) == [("PER", "Anne El", 0.7, 0, 7)]


def test_max_gives_a_word_the_label_of_its_surest_token():
    assert run("max", *SPEC) == [("PER", "Anne", 0.9, 0, 4), ("LOC", " El", 0.7, 4, 7)]


def test_average_takes_the_best_of_the_mean_scores():
    assert run("average", *SPEC) == [("PER", "Anne", 0.5, 0, 4), ("LOC", " El", 0.4125, 4, 7)]


@pytest.mark.parametrize("strategy", [member.value for member in AggregationStrategy])
def test_no_tokens_make_no_entities(strategy):
    assert run(strategy) == []


def test_of_overlapping_entities_the_longer_is_kept_then_the_surer():
    def entity(start, end, score):
        return {"start": start, "end": end, "score": score}

    assert drop_overlaps([]) == []
    assert drop_overlaps([entity(5, 7, 0.1), entity(0, 2, 0.3)]) == [entity(0, 2, 0.3), entity(5, 7, 0.1)]
    assert drop_overlaps([entity(0, 4, 0.9), entity(2, 9, 0.1)]) == [entity(2, 9, 0.1)]
    assert drop_overlaps([entity(0, 4, 0.2), entity(0, 4, 0.9)]) == [entity(0, 4, 0.9)]
    assert drop_overlaps([entity(0, 4, 0.9), entity(0, 4, 0.2)]) == [entity(0, 4, 0.9)]
