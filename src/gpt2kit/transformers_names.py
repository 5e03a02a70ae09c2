"""Transformers' module paths, and why some of its names are not here.

`from gpt2kit.models.gpt2.modeling_gpt2 import GPT2Block` works as the same line does with Transformers. Such a path is no
file: it finds each name where it really lives, in one of the modules that _PATHS gives it or among gpt2kit's public
names. Read the real modules instead; docs/decisions/0030-paths-of-transformers.md says why there are these at all.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from typing import Any

# Path -> the modules that have its names, beside the public ones.
_PATHS: dict[str, tuple[str, ...]] = {
    "activations": ("model.activations",),
    "cache_utils": ("model.cache.base", "model.cache.caches", "model.cache.layers", "model.cache.quantized"),
    "configuration_utils": (),
    "data": (),
    "data.data_collator": ("training.collators",),
    "generation.configuration_utils": (),
    "generation.logits_process": (),
    "generation.stopping_criteria": (),
    "generation.utils": (),
    "generation.watermarking": ("generation.watermark_detector", "torch_generation.bayesian_detector"),
    "modeling_outputs": ("model.outputs",),
    "modeling_utils": ("model.attention_backends",),
    "models": (),
    "models.auto": (),
    "models.auto.configuration_auto": (),
    "models.auto.modeling_auto": (),
    "models.auto.tokenization_auto": (),
    "models.gpt2": (),
    "models.gpt2.configuration_gpt2": (),
    "models.gpt2.modeling_gpt2": ("model.gpt2", "model.attention", "model.double_heads"),
    "models.gpt2.tokenization_gpt2": ("tokenizer.bpe",),
    "models.gpt2.tokenization_gpt2_fast": (),
    "optimization": ("training.schedules",),
    "pipelines.pt_utils": ("pipelines",),
    "pytorch_utils": ("model.attention", "model.switches"),
    "tokenization_utils": (),
    "tokenization_utils_base": ("tokenizer.batch_encoding", "tokenizer.enums"),
    "tokenization_utils_fast": (),
    "trainer_utils": ("training.seed", "training.schedules"),
    "utils": ("model.outputs", "tokenizer.enums"),
    "utils.generic": ("model.outputs", "tokenizer.enums"),
    "utils.import_utils": (),
    "utils.logging": ("logging",),
    "utils.quantization_config": (),
}
# What scripts ask of `utils` before they use a package: is_torch_available() and so on.
_IS_AVAILABLE = (
    r"is_(torch|numpy|tokenizers|accelerate|peft|bitsandbytes|safetensors|datasets|flash_attn|scipy|sklearn"
    r"|psutil|sentencepiece|tensorboard|wandb|optuna|ray)(?:_2)?_available"
)
_OTHER_MODELS = r"[A-Z]\w*(Model|Config|Tokenizer|TokenizerFast|Processor|Extractor|Pipeline|Callback|Trainer|For[A-Z]\w+)"
_TRAINING = (
    "EvalPrediction",
    "HfArgumentParser",
    "Seq2SeqTrainingArguments",
    "TrainerControl",
    "TrainerState",
    "TrainingArguments",
)


def why_missing(name: str) -> str | None:
    """Return why a name of Transformers is none of gpt2kit, and what to do; None for what is no such name."""
    import re

    if name.startswith(("TFGPT2", "FlaxGPT2")):
        own = name.removeprefix("TF").removeprefix("Flax")
        return f"gpt2kit has no {name}: it computes in C++ and PyTorch; use {own}, which reads the same checkpoints"
    if name in _TRAINING or name.endswith(("Trainer", "Callback")):
        return f"gpt2kit has no {name}; import it from transformers, whose Trainer trains gpt2kit's models"
    if re.fullmatch(_OTHER_MODELS, name):
        return f"gpt2kit has no {name}: it is for GPT-2 and text alone; import it from transformers"
    return None


def install_paths() -> None:
    """Let Python's import find _PATHS, behind everything else that it finds."""
    if not any(isinstance(finder, _Paths) for finder in sys.meta_path):
        sys.meta_path.append(_Paths())


class _Paths:
    """Finds the modules of _PATHS and fills them: with names that are looked up when they are asked for."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Give the specification of a module of _PATHS, None for any other."""
        place = fullname.removeprefix("gpt2kit.")
        if place == fullname or place not in _PATHS:
            return None
        is_package = any(other.startswith(f"{place}.") for other in _PATHS)
        return ModuleSpec(fullname, self, is_package=is_package)  # type: ignore[arg-type]  # it is a loader too

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to Python."""

    def exec_module(self, module: Any) -> None:
        """Fill a module."""
        place = module.__name__.removeprefix("gpt2kit.")
        module.__doc__ = f"Transformers' path transformers.{place}: what gpt2kit has of its names."
        module.__getattr__ = lambda name: _found(place, name)


def _found(place: str, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    for source in _PATHS[place]:
        module = import_module(f"gpt2kit.{source}")
        if hasattr(module, name):
            return getattr(module, name)
    if place.startswith("utils") and name.startswith("is_"):
        import re
        from importlib.util import find_spec

        if asked := re.fullmatch(_IS_AVAILABLE, name):
            return lambda *version: find_spec(asked[1]) is not None
    try:
        return getattr(import_module("gpt2kit"), name)
    except AttributeError:
        raise AttributeError(f"module 'gpt2kit.{place}' has no attribute {name!r}") from None
