"""GPT-2, complete. Public names are loaded on first use, so that `import gpt2kit` costs milliseconds."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name -> the module that defines it.
_MODULES = {
    "GPT2Config": "gpt2kit.config",
    "AutoConfig": "gpt2kit.config",
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
    "GenerationConfig": "gpt2kit.config",
    "WatermarkingConfig": "gpt2kit.config",
    "SynthIDTextWatermarkingConfig": "gpt2kit.config",
    "CompileConfig": "gpt2kit.config",
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
