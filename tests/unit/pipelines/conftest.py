"""Tiny models with heads, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes import write_tiny_model

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
ENTAILMENT = ("contradiction", "neutral", "entailment")


def labelled(names: tuple[str, ...]) -> dict[str, dict]:
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
    }


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each task; each model holds 128 tokens."""
    parent = tmp_path_factory.mktemp("tasks")
    heads = {
        "text-generation": (None, {}),
        "feature-extraction": (None, {}),
        "text-classification": ("score", {"num_labels": 3}),
        "token-classification": ("classifier", labelled(LABELS)),
        "zero-shot-classification": ("score", labelled(ENTAILMENT)),
        "question-answering": ("qa_outputs", {}),
    }
    for task, (head, options) in heads.items():
        write_tiny_model(parent / task, head=head, **options)
    return {task: parent / task for task in heads}
