"""The losses of the models, in nats and float32, with targets checked before they reach a kernel.

Shapes and types are always checked: torch's kernels broadcast some wrong ones in silence. Values are checked
where they lie in this machine's memory; to look at those on an accelerator would make it wait at each step, so
there the kernel's own assertion answers. N is the number of classes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2kit.model.inputs import can_look_at, check_tensors

IGNORED = -100  # a target that counts for nothing


def cross_entropy(
    logits: Tensor, labels: Tensor, name: str = "labels", *, ignored: int = IGNORED, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy of logits (..., N) with class numbers (...), of which `ignored` counts for nothing.

    Raises ValueError, calling the labels `name`, for another shape, labels that are not whole numbers, or
    numbers that are no class.
    """
    check_tensors(**{name: labels})
    _check_shape(labels, tuple(logits.shape[:-1]), name)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{name} are {labels.dtype}; class numbers are integers, convert them")
    targets = labels.reshape(-1).to(logits.device, torch.long)
    N = logits.shape[-1]
    if can_look_at(labels):
        wrong = targets[((targets < 0) | (targets >= N)) & (targets != ignored)]
        if wrong.numel():
            raise ValueError(f"{name} hold {wrong[0].item()}; allowed: 0 to {N - 1}, and {ignored} to ignore")
    return F.cross_entropy(logits.reshape(-1, N).float(), targets, ignore_index=ignored, reduction=reduction)


def causal_lm_loss(
    logits: Tensor,
    labels: Tensor | None = None,
    shift_labels: Tensor | None = None,
    num_items_in_batch: int | Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the next token. logits (..., T, V); targets (..., T), -100 is ignored."""
    check_tensors(labels=labels, shift_labels=shift_labels)
    if shift_labels is None:
        if labels is None:
            raise ValueError("give labels or shift_labels")
        shift_labels = F.pad(labels, (0, 1), value=IGNORED)[..., 1:]
    if shift_labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"there are targets for {tuple(shift_labels.shape)} positions and logits for "
            f"{tuple(logits.shape[:-1])}; give labels for every position and leave logits_to_keep at 0"
        )
    if num_items_in_batch is None:
        return cross_entropy(logits, shift_labels)
    return cross_entropy(logits, shift_labels, reduction="sum") / num_items_in_batch


def infer_problem_type(labels: Tensor, num_labels: int) -> str:
    """Tell from the labels what a classifier whose configuration does not say it is to learn."""
    if num_labels == 1:
        return "regression"
    is_class = labels.dtype in (torch.long, torch.int)
    return "single_label_classification" if is_class else "multi_label_classification"


def classification_loss(logits: Tensor, labels: Tensor, problem_type: str) -> Tensor:
    """Loss of logits (B, N) by problem type.

    regression: mean squared error, labels (B, N), also (B,) when N is 1. single_label_classification:
    cross-entropy, labels (B,) or (B, 1), -100 is ignored. multi_label_classification: binary cross-entropy,
    labels (B, N) from 0 to 1. Raises ValueError for labels that do not fit.
    """
    B, N = logits.shape
    if problem_type == "single_label_classification":
        return cross_entropy(logits, labels[:, 0] if labels.shape == (B, 1) else labels)
    if problem_type == "regression" and N == 1 and labels.shape == (B,):
        labels = labels[:, None]
    _check_shape(labels, (B, N), "labels")
    targets = labels.to(logits.device, torch.float32)
    is_regression = problem_type == "regression"
    if can_look_at(labels):
        low, high = (-torch.inf, torch.inf) if is_regression else (0.0, 1.0)
        wrong = targets[~(targets.isfinite() & (targets >= low) & (targets <= high))]
        if wrong.numel():
            allowed = "finite numbers" if is_regression else "0 to 1"
            raise ValueError(f"labels of a {problem_type} hold {wrong[0].item():g}; allowed: {allowed}")
    if is_regression:
        return F.mse_loss(logits.float(), targets)
    return F.binary_cross_entropy_with_logits(logits.float(), targets)


def span_loss(start_logits: Tensor, end_logits: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """Mean of the cross-entropies of first and last positions; logits (B, T), positions (B,) or (B, 1).

    Positions before the text count as 0, those past it for nothing: a long text cut in pieces has answers
    that lie outside of a piece.
    """
    check_tensors(start_positions=starts, end_positions=ends)
    T = start_logits.shape[-1]
    total = torch.zeros((), device=start_logits.device)
    for logits, positions, name in (
        (start_logits, starts, "start_positions"),
        (end_logits, ends, "end_positions"),
    ):
        if positions.dim() > 1 and positions.shape[-1] == 1:
            positions = positions.squeeze(-1)
        total = total + cross_entropy(logits, positions.clamp(0, T), name, ignored=T)
    return total / 2


def _check_shape(labels: Tensor, expected: tuple[int, ...], name: str) -> None:
    if tuple(labels.shape) != expected:
        raise ValueError(f"{name} have the shape {tuple(labels.shape)}; {expected} is needed")
