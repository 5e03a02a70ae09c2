"""GPT-2 in PyTorch. Needs the optional package torch; nothing outside this folder imports it at start."""

from gpt2kit.model.auto import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from gpt2kit.model.cache.base import Cache
from gpt2kit.model.cache.caches import DynamicCache, EncoderDecoderCache, QuantizedCache, StaticCache
from gpt2kit.model.double_heads import GPT2DoubleHeadsModel, GPT2SequenceSummary
from gpt2kit.model.gpt2 import GPT2LMHeadModel, GPT2Model, GPT2PreTrainedModel
from gpt2kit.model.heads import (
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
)
from gpt2kit.model.outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    GPT2DoubleHeadsModelOutput,
    ModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)

__all__ = [
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForMultipleChoice",
    "AutoModelForPreTraining",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "BaseModelOutputWithPastAndCrossAttentions",
    "Cache",
    "CausalLMOutputWithCrossAttentions",
    "DynamicCache",
    "EncoderDecoderCache",
    "GPT2DoubleHeadsModel",
    "GPT2DoubleHeadsModelOutput",
    "GPT2ForQuestionAnswering",
    "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification",
    "GPT2LMHeadModel",
    "GPT2Model",
    "GPT2PreTrainedModel",
    "GPT2SequenceSummary",
    "ModelOutput",
    "QuantizedCache",
    "QuestionAnsweringModelOutput",
    "SequenceClassifierOutputWithPast",
    "StaticCache",
    "TokenClassifierOutput",
]
