"""ModuleWithHead: a torch model behind the same interface as an engine with a head."""

from collections.abc import Sequence as Items
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gpt2kit.engine.heads import HEAD_CLASSES, batches_by_length
from gpt2kit.errors import EngineError

# More than an engine on the CPU takes at once: an accelerator wants large matrix products.
BATCH_TOKENS = 4096


class ModuleWithHead:
    """Runs the trunk and the head of a torch GPT-2, ours or Transformers', where it is and in its dtype.

    Rows are padded on the right to the longest of their batch. Causal attention never looks there, so no
    padding token is needed; a row alone and in a batch agree to rounding.
    """

    def __init__(self, model: Any, head: str | None = None, *, batch_tokens: int = BATCH_TOKENS) -> None:
        """Use a model as it is; it must be in eval mode and have the head of this name.

        Raises EngineError otherwise.
        """
        if model.training:
            raise EngineError(
                "the model is in training mode, where dropout is random; call model.eval() first"
            )
        self.model = model
        self.batch_tokens = batch_tokens
        self._trunk: nn.Module = getattr(model, "transformer", model)
        self._head: nn.Module | None = None
        if head is not None:
            self._head = getattr(model, head, None)
            if self._head is None:
                raise EngineError(
                    f"the model is a {type(model).__name__}, which has no {head!r}; give a {HEAD_CLASSES[head]}"
                )

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    def run(self, rows: Items[list[int]], *, last: bool = False) -> list[npt.NDArray[np.float32]]:
        """Do what NetworkWithHead says."""
        results: dict[int, npt.NDArray[np.float32]] = {}
        device = next(self.model.parameters()).device
        for batch in batches_by_length([len(row) for row in rows], self.batch_tokens):
            longest = len(rows[batch[0]])
            padded = [rows[i] + [0] * (longest - len(rows[i])) for i in batch]
            with torch.inference_mode():
                ids = torch.tensor(padded, device=device)
                hidden = self._trunk(ids, use_cache=False, return_dict=True).last_hidden_state  # (B, T, C)
                if last:
                    ends = torch.tensor([len(rows[i]) - 1 for i in batch], device=device)
                    hidden = hidden[torch.arange(len(batch), device=device), ends].unsqueeze(1)  # (B, 1, C)
                outputs = hidden if self._head is None else self._head(hidden)
                arrays = outputs.float().cpu().numpy()
            for i, array in zip(batch, arrays, strict=True):
                results[i] = array if last else array[: len(rows[i])]
        return [results[i] for i in range(len(rows))]
