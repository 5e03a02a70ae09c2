"""What the torch models return: named fields that can also be read by key, by index or as a tuple."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from gpt2kit.model.cache.caches import AnyCache


@dataclass
class ModelOutput:
    """An ordered record; fields that are None do not count for keys, indices and tuples.

    `output.logits`, `output["logits"]` and `output[1]` (with a loss before it) are the same tensor.
    """

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self.values())

    def keys(self) -> list[str]:
        return [f.name for f in fields(self) if getattr(self, f.name) is not None]

    def values(self) -> list[Any]:
        return [getattr(self, name) for name in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in self.keys()]

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key) if key in self else default

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self:
            raise KeyError(key)
        return getattr(self, key)

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


@dataclass
class BaseModelOutputWithPastAndCrossAttentions(ModelOutput):
    """Output of the trunk.

    last_hidden_state: (B, T, C), after ln_f. hidden_states: n_layer + 1 tensors (B, T, C), the embeddings
    first, the last one after ln_f. attentions: n_layer tensors (B, H, T, S), after the softmax.
    """

    last_hidden_state: Tensor | None = None
    past_key_values: AnyCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class CausalLMOutputWithCrossAttentions(ModelOutput):
    """Output of the language model: loss is a scalar, logits (B, T, V); the rest as in the trunk's output."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: AnyCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class GPT2DoubleHeadsModelOutput(ModelOutput):
    """Output of the language model with a choice head, C choices a row.

    loss, mc_loss: scalars. logits (B, C, T, V), mc_logits (B, C); the rest as in the trunk's output.
    """

    loss: Tensor | None = None
    mc_loss: Tensor | None = None
    logits: Tensor | None = None
    mc_logits: Tensor | None = None
    past_key_values: AnyCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class SequenceClassifierOutputWithPast(ModelOutput):
    """Output of the text classifier: logits (B, num_labels); the rest as in the trunk's output."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: AnyCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class TokenClassifierOutput(ModelOutput):
    """Output of the token classifier: logits (B, T, num_labels); the rest as in the trunk's output."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class QuestionAnsweringModelOutput(ModelOutput):
    """Output of the span finder: start_logits and end_logits (B, T); the rest as in the trunk's output."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
