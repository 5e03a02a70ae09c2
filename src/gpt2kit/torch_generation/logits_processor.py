"""What all logits processors over tensors share.

A processor takes input_ids (B, T) and scores (B, V) and returns new scores (B, V) of the same type on the same
device. The arithmetic is the numpy functions' of gpt2kit.generation, in float32.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt2kit.config.generation_checks import token_ids
from gpt2kit.errors import GenerationError
from gpt2kit.generation.processors.scores import Scores

# (row index, ids of the row, scores (V,)) -> scores (V,)
RowFunction = Callable[[int, list[int], Scores], Scores]


class LogitsProcessor:
    """What changes the scores of a step; subclasses define __call__."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the processed scores (B, V) for the token after input_ids (B, T)."""
        raise NotImplementedError(f"{type(self).__name__} is abstract: a subclass defines __call__")


class LogitsProcessorList(list[Any]):
    """Processors that run one after the other."""

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Return the scores (B, V) after all; kwargs go to those that take more than two arguments."""
        for processor in self:
            names = list(inspect.signature(processor.__call__).parameters)
            missing = [name for name in names[2:] if name not in kwargs]
            if missing:
                raise GenerationError(
                    f"Make sure that all the required parameters: {names} for {type(processor)} are passed to the "
                    f"logits processor; missing: {', '.join(missing)}"
                )
            scores = processor(input_ids, scores, **(kwargs if len(names) > 2 else {}))
        return scores


def by_row(function: RowFunction, input_ids: Tensor, scores: Tensor) -> Tensor:
    """Run a function on each row of a batch and return scores (B, V) like those given.

    Raises GenerationError unless input_ids and scores are 2-D with one number of rows.
    """
    if input_ids.ndim != 2 or scores.ndim != 2 or len(input_ids) != len(scores):
        raise GenerationError(
            f"input_ids {tuple(input_ids.shape)} and scores {tuple(scores.shape)} must be (batch, tokens) and "
            "(batch, vocabulary) of one batch"
        )
    rows = scores.detach().to("cpu", torch.float32).numpy()
    ids: list[list[int]] = input_ids.tolist()
    processed = [function(index, ids[index], rows[index]) for index in range(len(rows))]
    if not processed:
        return scores.clone()
    return torch.from_numpy(np.stack(processed)).to(scores.device, scores.dtype)


def id_list(name: str, value: Any) -> list[int]:
    """Check token ids given as an int, a list or a tensor."""
    ids = token_ids(name, value.reshape(-1).tolist() if isinstance(value, Tensor) else value)
    return ids if isinstance(ids, list) else [ids]
