"""The configuration of a GPT-2 and of a generation.

Read gpt2.py, then fields.py (what each setting may be); generation.py and generation_fields.py likewise.
bitsandbytes.py says how weights are quantised.
"""

from gpt2kit.config.auto import AutoConfig
from gpt2kit.config.bitsandbytes import BitsAndBytesConfig
from gpt2kit.config.fields import ACTIVATIONS
from gpt2kit.config.generation import GenerationConfig
from gpt2kit.config.gpt2 import CONFIG_NAME, PRESETS, GPT2Config

__all__ = [
    "ACTIVATIONS",
    "CONFIG_NAME",
    "PRESETS",
    "AutoConfig",
    "BitsAndBytesConfig",
    "GPT2Config",
    "GenerationConfig",
]
