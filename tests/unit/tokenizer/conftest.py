"""Tokenizers that the tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2_vocabulary import write_gpt2_vocabulary
from gpt2kit.tokenizer import GPT2Tokenizer


@pytest.fixture(scope="session")
def vocab_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2's real vocabulary as a folder that Transformers would have written."""
    return write_gpt2_vocabulary(tmp_path_factory.mktemp("gpt2-vocabulary"))


@pytest.fixture
def tokenizer(vocab_folder: Path) -> GPT2Tokenizer:
    """GPT-2's tokenizer, made anew for each test, so that a test may change it."""
    return GPT2Tokenizer.from_pretrained(vocab_folder)


TOY_TOKENS = [
    "l", "o", "w", "e", "r", "s", "t", "i", "d", "n", "\u0120", "\u0120l", "\u0120n", "\u0120lo", "\u0120low",
    "er", "\u0120lowest", "\u0120newer", "\u0120wider", "<unk>", "<|endoftext|>",
]  # fmt: skip
TOY_MERGES = ["\u0120 l", "\u0120l o", "\u0120lo w", "e r"]


@pytest.fixture
def toy() -> GPT2Tokenizer:
    """A vocabulary of 21 tokens, which lacks most bytes."""
    return GPT2Tokenizer({token: i for i, token in enumerate(TOY_TOKENS)}, TOY_MERGES, unk_token="<unk>")
