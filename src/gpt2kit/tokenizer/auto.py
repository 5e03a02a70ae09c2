"""AutoTokenizer: the name under which Transformers' users load a tokenizer."""

from __future__ import annotations

from os import PathLike
from typing import Any

from gpt2kit.tokenizer.gpt2 import GPT2Tokenizer


class AutoTokenizer:
    """Loads GPT2Tokenizer; it is not made itself."""

    def __new__(cls) -> AutoTokenizer:
        raise TypeError("AutoTokenizer is not made directly; use AutoTokenizer.from_pretrained(name_or_path)")

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike[str], *inputs: Any, **options: Any
    ) -> GPT2Tokenizer:
        """As GPT2Tokenizer.from_pretrained."""
        return GPT2Tokenizer.from_pretrained(pretrained_model_name_or_path, *inputs, **options)
