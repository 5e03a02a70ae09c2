"""The configuration of a GPT-2. Read gpt2.py first, then fields.py (what each setting may be)."""

from gpt2kit.config.auto import AutoConfig
from gpt2kit.config.fields import ACTIVATIONS
from gpt2kit.config.gpt2 import CONFIG_NAME, PRESETS, GPT2Config

__all__ = ["ACTIVATIONS", "CONFIG_NAME", "PRESETS", "AutoConfig", "GPT2Config"]
