"""Processors, criteria and prefix functions that take torch tensors, as the engine-independent loop calls them.

They see the batch as Transformers shows it: input_ids (B, L) with the prompts' padding, and rows that have ended
padded on the right; scores (B, V). Where a strategy asks row by row (beams, speculation), B is 1 and there is
no padding.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt2kit.errors import GenerationError
from gpt2kit.generation.batch import BatchCriterion, BatchProcessor
from gpt2kit.generation.protocol import Array
from gpt2kit.generation.row_loop import Row
from gpt2kit.torch_generation.prompts import Prompts


class Batch:
    """The rows of a generation as one tensor, which grows with them."""

    def __init__(self, prompts: Prompts, pad_token_id: int, num_return_sequences: int) -> None:
        self._prompts = prompts.padded.repeat_interleave(num_return_sequences, dim=0)
        self._num_return_sequences = num_return_sequences
        self._pad_token_id = pad_token_id
        self._rows: list[Row] = []

    @property
    def num_rows(self) -> int:
        return len(self._prompts)

    def index(self, row: Row) -> int:
        """Number of a row in the batch."""
        return row.prompt_index * self._num_return_sequences + row.row

    def input_ids(self, rows: Sequence[Row]) -> Tensor:
        """Return (B, L); rows: those that have not ended, at the first call all of them."""
        if not self._rows:
            self._rows = sorted(rows, key=self.index)
        longest = max(len(row.new_ids) for row in rows)
        new = torch.full((self.num_rows, longest), self._pad_token_id, dtype=torch.long)
        for index, row in enumerate(self._rows):
            new[index, : len(row.new_ids)] = torch.tensor(row.new_ids, dtype=torch.long)
        return torch.cat((self._prompts, new.to(self._prompts.device)), dim=1)


class TorchProcessors(BatchProcessor):
    """Runs callables (input_ids (B, L), scores (B, V)) -> scores (B, V), one after the other."""

    def __init__(self, processors: Iterable[Callable[[Tensor, Tensor], Tensor]], batch: Batch) -> None:
        self._processors = _checked(processors, "logits_processor")
        self._batch = batch
        self._device = batch._prompts.device

    def process_rows(self, rows: Sequence[Row], scores: Sequence[Array]) -> list[Array]:
        """Process the scores of the rows that have not ended; the others' are zeros."""
        places = [self._batch.index(row) for row in rows]
        given = torch.zeros(self._batch.num_rows, len(scores[0]), device=self._device)
        given[places] = torch.from_numpy(np.stack(scores)).to(self._device)
        result = self._run(self._batch.input_ids(rows), given)
        return list(result[places].numpy())

    def __call__(self, token_ids: list[int], scores: Array) -> Array:
        ids = torch.tensor([token_ids], dtype=torch.long, device=self._device)
        return self._run(ids, torch.from_numpy(scores.copy())[None].to(self._device))[0].numpy()

    def _run(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        shape = scores.shape
        for processor in self._processors:
            scores = processor(input_ids, scores)
            if not isinstance(scores, Tensor) or scores.shape != shape:
                what = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
                raise GenerationError(
                    f"logits_processor {processor!r} returned {what}; it must return scores {tuple(shape)}"
                )
        return scores.detach().float().cpu()


class TorchCriteria(BatchCriterion):
    """Asks callables (input_ids (B, L), scores) whether rows end: a bool for all, or bool (B,)."""

    def __init__(self, criteria: Iterable[Callable[..., Any]], batch: Batch) -> None:
        self._criteria = _checked(criteria, "stopping_criteria")
        self._batch = batch

    def stop_rows(self, rows: Sequence[Row]) -> list[bool]:
        """Say for each row whether it ends with the token that it ends in now."""
        answers = self._ask(self._batch.input_ids(rows))
        return [bool(answers[self._batch.index(row)]) for row in rows]

    def __call__(self, token_ids: list[int], scores: Array) -> bool:
        device = self._batch._prompts.device
        return bool(self._ask(torch.tensor([token_ids], dtype=torch.long, device=device))[0])

    def _ask(self, input_ids: Tensor) -> Tensor:
        is_done = torch.zeros(len(input_ids), dtype=torch.bool)
        # Every criterion is asked, so that one with a memory sees every token.
        for criterion in self._criteria:
            answer = torch.as_tensor(criterion(input_ids, None)).cpu()
            if answer.shape not in ((), (len(input_ids),)) or answer.dtype != torch.bool:
                raise GenerationError(
                    f"stopping_criteria {criterion!r} returned {answer.dtype} {tuple(answer.shape)}; it must "
                    f"return a bool or a bool tensor ({len(input_ids)},)"
                )
            is_done |= answer
        return is_done


def allowed_tokens(
    function: Callable[[int, Tensor], Sequence[int]], prompts: Prompts
) -> Callable[[int, Sequence[int]], list[int]]:
    """Wrap a prefix_allowed_tokens_fn that takes tensors: (batch_id, input_ids (L,)) -> ids that may follow."""
    device = prompts.padded.device

    def allowed(prompt_index: int, token_ids: Sequence[int]) -> list[int]:
        num_prompt = len(prompts.ids[prompt_index])
        new = torch.tensor(list(token_ids)[num_prompt:], dtype=torch.long, device=device)
        answer = function(prompt_index, torch.cat((prompts.padded[prompt_index], new)))
        return [int(token_id) for token_id in answer]

    return allowed


def _checked(functions: Iterable[Callable[..., Any]], name: str) -> list[Callable[..., Any]]:
    """Return the callables as a list. Raises TypeError for what cannot be called."""
    if not isinstance(functions, Iterable):
        raise TypeError(f"{name} is a {type(functions).__name__}; give a list of callables")
    result = list(functions)
    for function in result:
        if not callable(function):
            raise TypeError(
                f"{name} holds {function!r:.80}, which cannot be called; give a list of callables"
            )
    return result
