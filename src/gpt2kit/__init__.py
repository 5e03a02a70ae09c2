"""GPT-2, complete. Public names are loaded on first use, so that `import gpt2kit` costs milliseconds."""

from importlib import import_module
from typing import Any

from gpt2kit.transformers_names import install_paths, why_missing

__version__ = "0.1.0"

# Public name -> the module that defines it.
_MODULES = {
    "GPT2Config": "gpt2kit.config",
    "AutoConfig": "gpt2kit.config",
    "BitsAndBytesConfig": "gpt2kit.config",
    "GPT2Tokenizer": "gpt2kit.tokenizer",
    "GPT2TokenizerFast": "gpt2kit.tokenizer",
    "AutoTokenizer": "gpt2kit.tokenizer",
    "BatchEncoding": "gpt2kit.tokenizer",
    "StreamDecoder": "gpt2kit.tokenizer",
    "AddedToken": "gpt2kit.tokenizer",
    "CharSpan": "gpt2kit.tokenizer.batch_encoding",
    "TokenSpan": "gpt2kit.tokenizer.batch_encoding",
    "TensorType": "gpt2kit.tokenizer.enums",
    "PaddingStrategy": "gpt2kit.tokenizer.enums",
    "TruncationStrategy": "gpt2kit.tokenizer.enums",
    "AutoModel": "gpt2kit.model",
    "AutoModelForCausalLM": "gpt2kit.model",
    "AutoModelForMultipleChoice": "gpt2kit.model",
    "AutoModelForPreTraining": "gpt2kit.model",
    "AutoModelForQuestionAnswering": "gpt2kit.model",
    "AutoModelForSequenceClassification": "gpt2kit.model",
    "AutoModelForTokenClassification": "gpt2kit.model",
    "GPT2Model": "gpt2kit.model",
    "GPT2LMHeadModel": "gpt2kit.model",
    "GPT2DoubleHeadsModel": "gpt2kit.model",
    "GPT2DoubleHeadsModelOutput": "gpt2kit.model",
    "GPT2ForQuestionAnswering": "gpt2kit.model",
    "GPT2ForSequenceClassification": "gpt2kit.model",
    "GPT2ForTokenClassification": "gpt2kit.model",
    "GPT2PreTrainedModel": "gpt2kit.model",
    "GenerationMixin": "gpt2kit.model.generation_mixin",
    "Conv1D": "gpt2kit.model.attention",
    "Cache": "gpt2kit.model",
    "DynamicCache": "gpt2kit.model",
    "EncoderDecoderCache": "gpt2kit.model",
    "QuantizedCache": "gpt2kit.model",
    "StaticCache": "gpt2kit.model",
    "GenerationConfig": "gpt2kit.config",
    "WatermarkingConfig": "gpt2kit.config",
    "SynthIDTextWatermarkingConfig": "gpt2kit.config",
    "CompileConfig": "gpt2kit.config",
    "Constraint": "gpt2kit.generation.beams.constraints",
    "PhrasalConstraint": "gpt2kit.generation.beams.constraints",
    "DisjunctiveConstraint": "gpt2kit.generation.beams.constraints",
    "WatermarkDetector": "gpt2kit.generation.watermark_detector",
    "SynthIDTextScorer": "gpt2kit.generation.watermark_detector",
    "SynthIDTextWatermarkDetector": "gpt2kit.torch_generation.bayesian_detector",
    "BayesianDetectorConfig": "gpt2kit.torch_generation.bayesian_detector",
    "BayesianDetectorModel": "gpt2kit.torch_generation.bayesian_detector",
    "LogitsProcessor": "gpt2kit.torch_generation.logits_processor",
    "LogitsProcessorList": "gpt2kit.torch_generation.logits_processor",
    "MinLengthLogitsProcessor": "gpt2kit.torch_generation.processors",
    "MinNewTokensLengthLogitsProcessor": "gpt2kit.torch_generation.processors",
    "RepetitionPenaltyLogitsProcessor": "gpt2kit.torch_generation.processors",
    "EncoderRepetitionPenaltyLogitsProcessor": "gpt2kit.torch_generation.processors",
    "NoRepeatNGramLogitsProcessor": "gpt2kit.torch_generation.processors",
    "EncoderNoRepeatNGramLogitsProcessor": "gpt2kit.torch_generation.processors",
    "SequenceBiasLogitsProcessor": "gpt2kit.torch_generation.processors",
    "NoBadWordsLogitsProcessor": "gpt2kit.torch_generation.processors",
    "PrefixConstrainedLogitsProcessor": "gpt2kit.torch_generation.processors",
    "ForcedBOSTokenLogitsProcessor": "gpt2kit.torch_generation.processors",
    "ForcedEOSTokenLogitsProcessor": "gpt2kit.torch_generation.processors",
    "InfNanRemoveLogitsProcessor": "gpt2kit.torch_generation.processors",
    "ExponentialDecayLengthPenalty": "gpt2kit.torch_generation.processors",
    "LogitNormalization": "gpt2kit.torch_generation.processors",
    "SuppressTokensLogitsProcessor": "gpt2kit.torch_generation.processors",
    "SuppressTokensAtBeginLogitsProcessor": "gpt2kit.torch_generation.processors",
    "TemperatureLogitsWarper": "gpt2kit.torch_generation.warpers",
    "TopKLogitsWarper": "gpt2kit.torch_generation.warpers",
    "TopPLogitsWarper": "gpt2kit.torch_generation.warpers",
    "TopHLogitsWarper": "gpt2kit.torch_generation.warpers",
    "MinPLogitsWarper": "gpt2kit.torch_generation.warpers",
    "TypicalLogitsWarper": "gpt2kit.torch_generation.warpers",
    "EpsilonLogitsWarper": "gpt2kit.torch_generation.warpers",
    "EtaLogitsWarper": "gpt2kit.torch_generation.warpers",
    "ClassifierFreeGuidanceLogitsProcessor": "gpt2kit.torch_generation.guidance_processors",
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": "gpt2kit.torch_generation.guidance_processors",
    "WatermarkLogitsProcessor": "gpt2kit.torch_generation.watermark_processors",
    "SynthIDTextWatermarkLogitsProcessor": "gpt2kit.torch_generation.watermark_processors",
    "StoppingCriteria": "gpt2kit.torch_generation.criteria",
    "StoppingCriteriaList": "gpt2kit.torch_generation.criteria",
    "MaxLengthCriteria": "gpt2kit.torch_generation.criteria",
    "MaxTimeCriteria": "gpt2kit.torch_generation.criteria",
    "StopStringCriteria": "gpt2kit.torch_generation.criteria",
    "EosTokenCriteria": "gpt2kit.torch_generation.criteria",
    "ConfidenceCriteria": "gpt2kit.torch_generation.criteria",
    "AsyncTextIteratorStreamer": "gpt2kit.generation.streamers",
    "TextIteratorStreamer": "gpt2kit.generation.streamers",
    "TextStreamer": "gpt2kit.generation.streamers",
    "GenerateBeamDecoderOnlyOutput": "gpt2kit.torch_generation",
    "GenerateDecoderOnlyOutput": "gpt2kit.torch_generation",
    "load_engine": "gpt2kit.engine",
    "score": "gpt2kit.scoring",
    "pipeline": "gpt2kit.pipelines",
    "Pipeline": "gpt2kit.pipelines",
    "TextGenerationPipeline": "gpt2kit.pipelines",
    "FeatureExtractionPipeline": "gpt2kit.pipelines",
    "TextClassificationPipeline": "gpt2kit.pipelines",
    "TokenClassificationPipeline": "gpt2kit.pipelines",
    "NerPipeline": "gpt2kit.pipelines",
    "ZeroShotClassificationPipeline": "gpt2kit.pipelines",
    "QuestionAnsweringPipeline": "gpt2kit.pipelines",
    "set_seed": "gpt2kit.training.seed",
    "SchedulerType": "gpt2kit.training.schedules",
    "get_scheduler": "gpt2kit.training.schedules",
    "get_constant_schedule": "gpt2kit.training.schedules",
    "get_constant_schedule_with_warmup": "gpt2kit.training.schedules",
    "get_cosine_schedule_with_warmup": "gpt2kit.training.schedules",
    "get_cosine_with_hard_restarts_schedule_with_warmup": "gpt2kit.training.schedules",
    "get_cosine_with_min_lr_schedule_with_warmup": "gpt2kit.training.schedules",
    "get_cosine_with_min_lr_schedule_with_warmup_lr_rate": "gpt2kit.training.schedules",
    "get_inverse_sqrt_schedule": "gpt2kit.training.schedules",
    "get_linear_schedule_with_warmup": "gpt2kit.training.schedules",
    "get_polynomial_decay_schedule_with_warmup": "gpt2kit.training.schedules",
    "get_reduce_on_plateau_schedule": "gpt2kit.training.schedules",
    "get_wsd_schedule": "gpt2kit.training.schedules",
    "DataCollatorForLanguageModeling": "gpt2kit.training.collators",
    "DataCollatorForMultipleChoice": "gpt2kit.training.collators",
    "DataCollatorForTokenClassification": "gpt2kit.training.collators",
    "DataCollatorWithFlattening": "gpt2kit.training.collators",
    "DataCollatorWithPadding": "gpt2kit.training.collators",
    "DefaultDataCollator": "gpt2kit.training.collators",
    "default_data_collator": "gpt2kit.training.collators",
}
# Transformers' names of base classes: the module and the class that is one here.
_OTHER_NAMES = {
    "PreTrainedModel": ("gpt2kit.model.pretrained.base", "PreTrainedModel"),
    "PreTrainedConfig": ("gpt2kit.config", "GPT2Config"),
    "PretrainedConfig": ("gpt2kit.config", "GPT2Config"),
    "PreTrainedTokenizer": ("gpt2kit.tokenizer", "GPT2Tokenizer"),
    "PreTrainedTokenizerBase": ("gpt2kit.tokenizer", "GPT2Tokenizer"),
    "PreTrainedTokenizerFast": ("gpt2kit.tokenizer", "GPT2Tokenizer"),
}
# Modules that `gpt2kit.<name>` finds without an import of their own.
_SUBMODULES = (
    "benchmark",
    "builtin",
    "checkpoint",
    "config",
    "engine",
    "errors",
    "generation",
    "hub",
    "logging",
    "model",
    "pipelines",
    "quant",
    "scoring",
    "tokenizer",
    "training",
)
__all__ = ["__version__", *_MODULES, *_OTHER_NAMES, *_SUBMODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    if name in _OTHER_NAMES:
        module, own_name = _OTHER_NAMES[name]
        return getattr(import_module(module), own_name)
    if name in _SUBMODULES:
        return import_module(f"gpt2kit.{name}")
    reason = why_missing(name)
    if reason is not None:
        raise ImportError(
            reason
        )  # an AttributeError's words would not reach who writes `from gpt2kit import`
    raise AttributeError(f"module 'gpt2kit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


install_paths()
