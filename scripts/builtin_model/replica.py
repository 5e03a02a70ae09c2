"""One thread's copy of the model: forward, loss and backward of micro-batches in bfloat16.

Two threads that share nothing but the weights' storage use two cores better than one operator split over
both, and on a busy machine no operator waits for the slower half.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2kit.config import GPT2Config
from gpt2kit.model import GPT2Model

# Rows of logits alive at once: (128, 6144) float32 is 3 MB, which stays in the cache.
CHUNK_ROWS = 128


class Replica:
    """weights: bfloat16 tensors in the order of GPT2Model.parameters(), shared by all replicas, not owned."""

    def __init__(self, config: GPT2Config, weights: list[Tensor]) -> None:
        self.model = GPT2Model(config).bfloat16().train()
        for block in self.model.h:
            block.attn._attend = causal_attention
        for parameter, weight in zip(self.model.parameters(), weights, strict=True):
            parameter.data = weight
        self.gradients = [torch.zeros_like(w, dtype=torch.float32) for w in weights]
        self.loss_sum = 0.0

    def backward(self, windows: Tensor, scale: float) -> None:
        """Add the gradient of scale * summed loss to self.gradients. windows: (B, T + 1) int64 ids."""
        hidden = self.model(windows[:, :-1], use_cache=False).last_hidden_state
        wte = self.model.wte.weight
        flat = hidden.detach().reshape(-1, hidden.shape[-1])
        loss, d_hidden, d_wte = tied_head_loss(flat, wte.detach(), windows[:, 1:].reshape(-1), scale)
        hidden.backward(d_hidden.view_as(hidden))
        self.gradients[0].add_(d_wte)  # wte is the first parameter
        for total, parameter in zip(self.gradients, self.model.parameters(), strict=True):
            total.add_(parameter.grad)
            parameter.grad = None
        self.loss_sum += loss


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, fused: bool
) -> tuple[Tensor, None]:
    """Plain causal attention over (B, H, T, D) by two matrix products.

    At these lengths it takes two thirds of the time of torch's fused CPU kernel, forward and backward.
    """
    B, H, T, D = query.shape
    future = torch.full((T, T), -torch.inf, dtype=query.dtype).triu(1).expand(B * H, T, T)
    scores = torch.baddbmm(
        future, query.reshape(-1, T, D), key.reshape(-1, T, D).transpose(1, 2), alpha=D**-0.5
    )
    y = torch.bmm(F.softmax(scores, dim=-1), value.reshape(-1, T, D))
    return y.view(B, H, T, D), None


@torch.no_grad()
def tied_head_loss(
    hidden: Tensor, wte: Tensor, targets: Tensor, scale: float
) -> tuple[float, Tensor, Tensor]:
    """Summed cross-entropy of the tied head in nats, its gradients times scale.

    hidden (N, C) and wte (V, C) in bfloat16, targets (N,). Never holds more than CHUNK_ROWS rows of logits.
    """
    d_hidden = torch.empty_like(hidden)
    d_wte = torch.zeros_like(wte, dtype=torch.float32)
    loss = 0.0
    for start in range(0, len(hidden), CHUNK_ROWS):
        rows = hidden[start : start + CHUNK_ROWS]
        target = targets[start : start + CHUNK_ROWS, None]
        log_probs = F.log_softmax((rows @ wte.T).float(), dim=-1)
        loss -= log_probs.gather(1, target).sum().item()
        d_logits = log_probs.exp_()
        d_logits.scatter_add_(1, target, torch.full_like(target, -1, dtype=torch.float32))
        d_logits = d_logits.mul_(scale).bfloat16()
        d_hidden[start : start + CHUNK_ROWS] = d_logits @ wte
        d_wte += d_logits.T @ rows
    return loss, d_hidden, d_wte
