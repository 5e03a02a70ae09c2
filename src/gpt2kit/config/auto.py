"""AutoConfig: the configuration class for a model_type. There is one."""

from __future__ import annotations

import os
from typing import Any

from gpt2kit.config.gpt2 import GPT2Config
from gpt2kit.errors import ConfigError


class AutoConfig:
    """Read configurations without naming their class, as scripts written for Transformers do."""

    def __init__(self) -> None:
        raise TypeError(
            "AutoConfig is not made: use AutoConfig.from_pretrained(name) or AutoConfig.for_model('gpt2')"
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **settings: Any) -> Any:
        """Read a configuration; see GPT2Config.from_pretrained. Other models than GPT-2 are refused."""
        return GPT2Config.from_pretrained(pretrained_model_name_or_path, **settings)

    @classmethod
    def for_model(cls, model_type: str, **settings: Any) -> GPT2Config:
        """Build a configuration from its model_type, which must be "gpt2"."""
        if model_type != GPT2Config.model_type:
            raise ConfigError(f"model_type is {model_type!r}; allowed: 'gpt2'")
        return GPT2Config(**settings)
