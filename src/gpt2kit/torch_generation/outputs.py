"""What generate() returns with return_dict_in_generate=True, made of the rows that a generation gave.

B rows (prompts times num_return_sequences), T columns of the prompts, N new tokens of the longest row, V vocabulary,
H heads, C channels. A row that ended before the longest one has zeros in the later steps, and so have columns
of padding; its scores there say that padding was certain.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpt2kit.generation import Generated
from gpt2kit.generation.protocol import Array
from gpt2kit.generation.rows import Steps
from gpt2kit.model.cache.base import Cache
from gpt2kit.model.outputs import ModelOutput
from gpt2kit.torch_generation.prompts import Prompts


@dataclass
class GenerateDecoderOnlyOutput(ModelOutput):
    """Output of greedy decoding, sampling and every way without beams.

    sequences (B, T + N). scores, logits: N tensors (B, V), after and before all processors. attentions: for
    each step n_layer tensors (B, H, T or 1, T + step), hidden_states: for each step n_layer + 1 tensors
    (B, T or 1, C). past_key_values: of all but the last token of each row.
    """

    sequences: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    attentions: tuple[tuple[Tensor, ...], ...] | None = None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None = None
    past_key_values: Cache | None = None


@dataclass
class GenerateBeamDecoderOnlyOutput(ModelOutput):
    """Output of the ways with beams; B num_beams stands where it has B, but for the sequences and the cache.

    sequences_scores (B,): final scores. beam_indices (B, N): the row, 0 to prompts * num_beams - 1, that each
    new token was appended to, -1 where the sequence has ended. The rest as without beams.
    """

    sequences: Tensor | None = None
    sequences_scores: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    beam_indices: Tensor | None = None
    attentions: tuple[tuple[Tensor, ...], ...] | None = None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None = None
    past_key_values: Cache | None = None


def sequences(prompts: Prompts, rows: Sequence[Generated], pad_token_id: int) -> Tensor:
    """Return prompts with their padding and what was generated, padded on the right, (B, T + N)."""
    longest = max(len(row.ids) for row in rows)
    new = torch.full((len(rows), longest), pad_token_id, dtype=torch.long)
    for index, row in enumerate(rows):
        new[index, : len(row.ids)] = torch.tensor(row.ids)
    device = prompts.padded.device
    repeats = len(rows) // len(prompts.ids)
    return torch.cat((prompts.padded.repeat_interleave(repeats, dim=0), new.to(device)), dim=1)


def beam_indices(rows: Sequence[Generated], num_beams: int, device: torch.device) -> Tensor:
    """Return the rows that tokens were appended to, (B, N), -1 after the end."""
    longest = max(len(row.ids) for row in rows)
    indices = torch.full((len(rows), longest), -1, dtype=torch.long)
    for index, row in enumerate(rows):
        assert row.beam_indices is not None
        shifted = [row.prompt_index * num_beams + beam for beam in row.beam_indices]
        indices[index, : len(shifted)] = torch.tensor(shifted, dtype=torch.long)
    return indices.to(device)


class StepTensors:
    """Puts the steps of all rows together: for each step a tensor, or one a layer, for the whole batch."""

    def __init__(
        self, prompts: Prompts, rows: Sequence[Generated], num_beams: int, pad_token_id: int
    ) -> None:
        """num_beams: 1 for rows with steps of their own; else a prompt's rows share those of all its beams."""
        self._device = prompts.padded.device
        self._pad_token_id = pad_token_id
        self._has_beams = num_beams > 1
        owners = {row.prompt_index: row for row in reversed(rows)}.values() if self._has_beams else rows
        ordered = sorted(owners, key=lambda row: (row.prompt_index, row.row))
        self._masks = [prompts.mask[row.prompt_index].numpy() for row in ordered]
        self._num_past = prompts.num_past
        self._steps = [row.steps or Steps() for row in ordered]

    def scores(self) -> tuple[Tensor, ...]:
        """Processed scores, N tensors (B, V)."""
        filler = np.full(1, -np.inf, dtype=np.float32)

        def certain_padding(shape: tuple[int, ...]) -> Array:
            scores: Array = np.broadcast_to(filler, shape).copy()
            scores[..., self._pad_token_id] = 0.0
            return scores

        batches = self._batches([steps.scores for steps in self._steps], _as_it_is, certain_padding)
        return tuple(self._tensor(batch) for batch in batches)

    def logits(self) -> tuple[Tensor, ...]:
        """Raw logits, N tensors (B, V)."""
        batches = self._batches([steps.logits for steps in self._steps], _as_it_is)
        return tuple(self._tensor(batch) for batch in batches)

    def hidden_states(self) -> tuple[tuple[Tensor, ...], ...]:
        """For each step n_layer + 1 tensors (B, T or 1, C)."""
        return self._layers([steps.hidden_states for steps in self._steps], self._place_states)

    def attentions(self) -> tuple[tuple[Tensor, ...], ...]:
        """For each step n_layer tensors (B, H, T or 1, S)."""
        return self._layers([steps.attentions for steps in self._steps], self._place_weights)

    def _layers(self, kept: list[list[Array]], place: "_Place") -> tuple[tuple[Tensor, ...], ...]:
        return tuple(
            tuple(self._tensor(batch[:, layer]) for layer in range(batch.shape[1]))
            for batch in self._batches(kept, place)
        )

    def _batches(
        self, kept: list[list[Array]], place: "_Place", fill: Callable[[tuple[int, ...]], Array] = np.zeros
    ) -> Iterator[Array]:
        """Yield each step's values of all rows, rows that had ended filled in."""
        for step in range(max(len(values) for values in kept)):
            parts = [
                place(values[step] if self._has_beams else values[step][None], index, step)
                if step < len(values)
                else None
                for index, values in enumerate(kept)
            ]
            shape = next(part.shape for part in parts if part is not None)
            yield np.concatenate([fill(shape) if part is None else part for part in parts])

    def _place_states(self, values: Array, index: int, step: int) -> Array:
        """Spread (K, n_layer + 1, T of the row, C) over the columns of the prompts; later steps stay."""
        if step > 0:
            return values[:, :, -1:]  # of a window that was run again only the last is new
        new_columns = self._masks[index][self._num_past :]
        placed = np.zeros((*values.shape[:2], len(new_columns), values.shape[3]), dtype=np.float32)
        placed[:, :, new_columns] = values
        return placed

    def _place_weights(self, values: Array, index: int, step: int) -> Array:
        """Spread (K, n_layer, H, T, S of the row) over the columns of the prompts and the new tokens."""
        mask = self._masks[index]
        if step > 0:
            values = values[..., -1:, :]
        keys = np.flatnonzero(np.concatenate((mask, np.ones(step, dtype=bool))))[-values.shape[4] :]
        queries = np.flatnonzero(mask[self._num_past :]) if step == 0 else np.zeros(1, dtype=np.int64)
        num_queries = len(mask) - self._num_past if step == 0 else 1
        placed = np.zeros((*values.shape[:3], num_queries, len(mask) + step), dtype=np.float32)
        placed[..., queries[:, None], keys] = values
        return placed

    def _tensor(self, values: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device)


# (one row's or beam's values of a step, with an axis of beams, number of the row, step) -> what goes to the batch
_Place = Callable[[Array, int, int], Array]


def _as_it_is(values: Array, index: int, step: int) -> Array:
    return values
