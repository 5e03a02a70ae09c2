"""GPT-2, complete. Public names are loaded on first use, so that `import gpt2kit` costs milliseconds."""

from importlib import import_module
from typing import Any

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
    "AutoModel": "gpt2kit.model",
    "AutoModelForCausalLM": "gpt2kit.model",
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
}
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'gpt2kit' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
