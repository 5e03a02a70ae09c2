"""Muon, an optimiser for hidden weight matrices: momentum, then the nearest orthogonal matrix as the step.

Newton-Schulz coefficients and the use of AdamW for embeddings, norms and biases follow Jordan et al., "Muon:
An optimizer for hidden layers in neural networks" (2024).
"""

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


class Muon:
    """Updates float32 matrices (I, O) in place; a fused projection such as c_attn counts as its parts."""

    def __init__(self, matrices: list[Tensor], weight_decay: float, momentum: float = 0.95) -> None:
        self.matrices = matrices
        self.weight_decay = weight_decay
        self.momentum = momentum
        self.velocities = [torch.zeros_like(m) for m in matrices]

    @torch.no_grad()
    def step(self, gradients: list[Tensor], learning_rate: float) -> None:
        for matrix, gradient, velocity in zip(self.matrices, gradients, self.velocities, strict=True):
            velocity.lerp_(gradient, 1 - self.momentum)
            update = gradient.lerp(velocity, self.momentum)  # Nesterov
            num_parts = matrix.shape[1] // matrix.shape[0] if matrix.shape[1] == 3 * matrix.shape[0] else 1
            parts = update.chunk(num_parts, dim=1)  # c_attn is three projections side by side
            update = torch.cat(
                [orthogonalize(p) * max(1, p.shape[1] / p.shape[0]) ** 0.5 for p in parts], dim=1
            )
            matrix.mul_(1 - learning_rate * self.weight_decay)
            matrix.add_(update, alpha=-learning_rate)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Push all singular values of a matrix towards 1."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = (x / (x.norm() + 1e-7)).bfloat16()
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).float()
