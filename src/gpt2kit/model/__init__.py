"""GPT-2 in PyTorch. Needs the optional package torch; nothing outside this folder imports it at start."""

from .cache import DynamicCache
from .gpt2 import GPT2LMHeadModel, GPT2Model, GPT2PreTrainedModel
from .outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    ModelOutput,
)

__all__ = [
    "BaseModelOutputWithPastAndCrossAttentions",
    "CausalLMOutputWithCrossAttentions",
    "DynamicCache",
    "GPT2LMHeadModel",
    "GPT2Model",
    "GPT2PreTrainedModel",
    "ModelOutput",
]
