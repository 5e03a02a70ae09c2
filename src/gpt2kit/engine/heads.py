"""Heads on an engine: from hidden states to the scores of labels, in numpy.

A head is a linear map with the checkpoint's names: `score` judges a text, `classifier` each token,
`qa_outputs` where an answer begins and ends. torch_heads.py does the same over a torch model.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gpt2kit.checkpoint import Checkpoint
from gpt2kit.config import GPT2Config
from gpt2kit.errors import CheckpointError
from gpt2kit.generation.protocol import Engine

Array = npt.NDArray[np.float32]

# The name of a head's tensors -> the model class that has it.
HEAD_CLASSES = {
    "score": "GPT2ForSequenceClassification",
    "classifier": "GPT2ForTokenClassification",
    "qa_outputs": "GPT2ForQuestionAnswering",
}
# Tokens of one call of an engine: enough to keep it busy, and bounds the memory of the caches.
BATCH_TOKENS = 512


class NetworkWithHead(Protocol):
    """Gives what a head, or the trunk alone, says of rows of token ids."""

    @property
    def config(self) -> GPT2Config:
        """The shape of the model and the names of its labels."""

    def run(self, rows: Items[list[int]], *, last: bool = False) -> list[Array]:
        """Return float32 (T, N) for each row, in order, or only its last position, (1, N), with `last`.

        N is the number of the head's outputs, or n_embd without a head. No row may be empty or longer than
        n_positions.
        """


@dataclass(frozen=True)
class Head:
    """A linear map: weight (N, C), bias (N,) or None, float32."""

    weight: Array
    bias: Array | None = None

    def __call__(self, hidden: Array) -> Array:
        """Return the outputs (T, N) for hidden states (T, C).

        The sums are made in float64: rounded to float32 they do not depend on how a library splits them.
        """
        outputs = hidden.astype(np.float64) @ self.weight.T.astype(np.float64)
        if self.bias is not None:
            outputs += self.bias
        return np.asarray(outputs, dtype=np.float32)


def load_head(checkpoint: Checkpoint, name: str, task: str) -> Head:
    """Return the head `name` of a checkpoint; `task` is who needs it, for the message.

    Raises CheckpointError when the checkpoint has no such head, or one that does not fit its labels.
    """
    weight_name, bias_name = f"{name}.weight", f"{name}.bias"
    if weight_name not in checkpoint:
        raise CheckpointError(
            f"{checkpoint.folder} has no tensor {weight_name!r}: {task} needs a {HEAD_CLASSES[name]}; give a "
            "model that was trained for it"
        )
    head = Head(
        checkpoint.float32(weight_name), checkpoint.float32(bias_name) if bias_name in checkpoint else None
    )
    num_outputs = 2 if name == "qa_outputs" else checkpoint.config.num_labels
    if len(head.weight) != num_outputs or (head.bias is not None and len(head.bias) != num_outputs):
        raise CheckpointError(
            f"{checkpoint.folder}: {weight_name!r} has {len(head.weight)} outputs, but the configuration has "
            f"{num_outputs} labels; correct id2label in its config.json"
        )
    return head


class EngineWithHead:
    """An engine with a head, or with none to get the hidden states after the last layer norm.

    A row's result is the same alone and in a batch: on the native engine to the bit.
    """

    def __init__(self, engine: Engine, head: Head | None = None, *, batch_tokens: int = BATCH_TOKENS) -> None:
        self.engine = engine
        self.head = head
        self.batch_tokens = batch_tokens

    @property
    def config(self) -> GPT2Config:
        """The engine's configuration."""
        return self.engine.config

    def run(self, rows: Items[list[int]], *, last: bool = False) -> list[Array]:
        """Do what NetworkWithHead says."""
        results: dict[int, Array] = {}
        for batch in batches_by_length([len(row) for row in rows], self.batch_tokens):
            sequences = [self.engine.new_sequence() for _ in batch]
            try:
                outputs = self.engine.forward(
                    [(sequence, list(rows[i])) for sequence, i in zip(sequences, batch, strict=True)],
                    logits=None,
                    hidden=True,
                )
            finally:
                for sequence in sequences:
                    sequence.free()
            for i, output in zip(batch, outputs, strict=True):
                assert output.hidden is not None
                hidden = output.hidden[-1:] if last else output.hidden
                results[i] = hidden.copy() if self.head is None else self.head(hidden)
        return [results[i] for i in range(len(rows))]


def batches_by_length(lengths: Items[int], max_tokens: int) -> Iterator[list[int]]:
    """Give the indices of rows in batches, the longest together and first.

    A batch holds at most max_tokens, counting every row as its longest, but always one row.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        num_rows = max(max_tokens // max(lengths[order[start]], 1), 1)
        yield order[start : start + num_rows]
        start += num_rows
