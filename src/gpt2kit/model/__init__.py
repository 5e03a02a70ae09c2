"""GPT-2 in PyTorch. Needs the optional package torch; nothing outside this folder imports it at start."""

from gpt2kit.model.auto import AutoModel, AutoModelForCausalLM
from gpt2kit.model.cache import DynamicCache
from gpt2kit.model.gpt2 import GPT2LMHeadModel, GPT2Model, GPT2PreTrainedModel
from gpt2kit.model.outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    ModelOutput,
)

__all__ = [
    "AutoModel",
    "AutoModelForCausalLM",
    "BaseModelOutputWithPastAndCrossAttentions",
    "CausalLMOutputWithCrossAttentions",
    "DynamicCache",
    "GPT2LMHeadModel",
    "GPT2Model",
    "GPT2PreTrainedModel",
    "ModelOutput",
]
