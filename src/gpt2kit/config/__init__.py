"""The configuration of a GPT-2 and of a generation.

Read gpt2.py, then fields.py (what each setting may be). For generation: generation.py, generation_fields.py
(what each option may be), generation_contradictions.py (options beside each other). bitsandbytes.py says how
weights are quantised.
"""

from gpt2kit.config.auto import AutoConfig
from gpt2kit.config.bitsandbytes import BitsAndBytesConfig
from gpt2kit.config.compile_config import CompileConfig
from gpt2kit.config.fields import ACTIVATIONS
from gpt2kit.config.generation import GenerationConfig
from gpt2kit.config.gpt2 import PRESETS, GPT2Config
from gpt2kit.config.hparams import CONFIG_NAME
from gpt2kit.config.watermarking import SynthIDTextWatermarkingConfig, WatermarkingConfig

__all__ = [
    "ACTIVATIONS",
    "CONFIG_NAME",
    "PRESETS",
    "AutoConfig",
    "BitsAndBytesConfig",
    "CompileConfig",
    "GPT2Config",
    "GenerationConfig",
    "SynthIDTextWatermarkingConfig",
    "WatermarkingConfig",
]
