"""Scores of the tokens that were chosen, picked out of the scores of all."""

from collections.abc import Sequence

import torch
from torch import Tensor


def compute_transition_scores(
    sequences: Tensor,
    scores: Sequence[Tensor],
    beam_indices: Tensor | None = None,
    normalize_logits: bool = False,
) -> Tensor:
    """Return the score of each generated token, (B, N); 0 where a beam has ended.

    sequences (B, T + N). scores: N tensors (rows, V). beam_indices (B, N): the row of scores that each token
    comes from, -1 after a beam's end; by default row i for sequence i. normalize_logits: take the log-softmax
    of the scores first.
    """
    stacked = torch.stack(tuple(scores))  # (N, rows, V)
    if normalize_logits:
        stacked = stacked.log_softmax(dim=-1)
    if beam_indices is None:
        beam_indices = torch.arange(stacked.shape[1], device=sequences.device)[:, None].expand(
            -1, len(stacked)
        )
    num_steps = int((beam_indices >= 0).sum(dim=1).max())
    rows = beam_indices[:, :num_steps]
    tokens = sequences[:, sequences.shape[1] - num_steps :]
    steps = torch.arange(num_steps, device=sequences.device).expand_as(tokens)
    picked = stacked[steps, rows.clamp(min=0), tokens]
    return picked.masked_fill(rows < 0, 0.0)
