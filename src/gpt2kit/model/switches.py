"""What can be changed of a model that is built: attention's back end, gradient checkpointing, its heads."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError
from gpt2kit.model.attention import Conv1D, GPT2Attention
from gpt2kit.model.attention_backends import DEFAULT_BACKEND, get_backend
from gpt2kit.model.embeddings import EmbeddingAccess


class ModelSwitches(EmbeddingAccess):
    """Settings that act from the next forward pass on."""

    supports_gradient_checkpointing = True
    _input_gradients: RemovableHandle | None = None

    @property
    def attn_implementation(self) -> str:
        """The attention back end in use, which is the configuration's."""
        return self.config.attn_implementation or DEFAULT_BACKEND

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Choose how attention is computed: a name in attention_backends.ATTENTION_BACKENDS.

        Raises ConfigError for another name, MissingDependencyError for a back end that is not installed.
        """
        get_backend(attn_implementation)
        self.config.attn_implementation = attn_implementation

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether blocks are computed again in the backward pass instead of kept."""
        return getattr(self.base_model, "block_checkpoint", None) is not None

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Keep only the input of each block for the backward pass: less memory, one more forward pass.

        gradient_checkpointing_kwargs: for torch.utils.checkpoint.checkpoint; by default use_reentrant is
        False. Acts in training mode only, and then no cache is made.
        """
        options = {"use_reentrant": False, **(gradient_checkpointing_kwargs or {})}
        self.base_model.block_checkpoint = partial(checkpoint, **options)  # type: ignore[assignment]  # not a module

    def gradient_checkpointing_disable(self) -> None:
        """Keep what each block computes again."""
        self.base_model.block_checkpoint = None  # type: ignore[assignment]  # not a module

    # Transformers 5's names.
    activation_checkpointing_enable = gradient_checkpointing_enable
    activation_checkpointing_disable = gradient_checkpointing_disable
    is_activation_checkpointing = is_gradient_checkpointing

    def enable_input_require_grads(self) -> None:
        """Let gradients reach the embeddings' output though the embeddings are frozen, for adapters."""
        self.disable_input_require_grads()
        hook = self.get_input_embeddings().register_forward_hook(_require_gradient)
        self._input_gradients = hook

    def disable_input_require_grads(self) -> None:
        """Undo enable_input_require_grads."""
        if self._input_gradients is not None:
            self._input_gradients.remove()
        self._input_gradients = None

    def prune_heads(self, heads_to_prune: Mapping[int, Iterable[int]]) -> None:
        """Take heads out of self-attention for good: {layer: heads}, both counted from 0 before any pruning.

        The weights shrink, config.pruned_heads says which are gone, and saved folders load as they are.
        Optimizers that hold the old weights must be made anew. Raises ConfigError for a layer or head that
        does not exist and for a layer that would be left without heads; then nothing has changed.
        """
        config = self.config
        before = [config.kept_heads(layer) for layer in range(config.n_layer)]
        blocks = [block.attn for block in self.base_model.h]  # type: ignore[union-attr]  # nn.Module's attributes are untyped
        for attention in blocks:
            if not isinstance(attention.c_attn, Conv1D) or not isinstance(attention.c_proj, Conv1D):
                raise ConfigError(
                    f"attention's layers are {type(attention.c_attn).__name__}; prune heads before they are replaced"
                )
        pruned = {layer: set(heads) for layer, heads in (config.pruned_heads or {}).items()}
        for layer, heads in heads_to_prune.items():
            pruned[layer] = pruned.get(layer, set()) | set(heads)
        settings = config.to_dict() | {
            "pruned_heads": {layer: list(heads) for layer, heads in pruned.items()}
        }
        config.pruned_heads = GPT2Config.from_dict(settings).pruned_heads  # checked as a whole
        for layer, attention in enumerate(blocks):
            kept = config.kept_heads(layer)
            if kept != before[layer]:
                _keep_heads(attention, [before[layer].index(head) for head in kept])


def _require_gradient(module: nn.Module, inputs: Any, output: Tensor) -> None:
    output.requires_grad_(True)


@torch.no_grad()
def _keep_heads(attention: GPT2Attention, heads: list[int]) -> None:
    """Cut the weights of self-attention down to these of its heads, counted as they are now."""
    D, device = attention.head_size, attention.c_proj.weight.device
    channels = torch.cat([torch.arange(head * D, (head + 1) * D, device=device) for head in heads])
    width = attention.n_head * D
    columns = torch.cat([channels + part * width for part in range(3)])  # of query, key and value
    for parameter, dim, index in (
        ("c_attn.weight", 1, columns),
        ("c_attn.bias", 0, columns),
        ("c_proj.weight", 0, channels),
    ):
        owner, leaf = parameter.split(".")
        layer = attention.get_submodule(owner)
        old: Tensor = getattr(layer, leaf)
        setattr(layer, leaf, nn.Parameter(old.index_select(dim, index), requires_grad=old.requires_grad))
    attention.n_head = len(heads)
