"""A GPT-2 of a few kilobytes and the bytes of safetensors files, good and bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gpt2kit.checkpoint.names import trunk_shapes
from gpt2kit.config import GPT2Config

CONFIG = GPT2Config(n_layer=1, n_head=2, n_embd=4, vocab_size=11, n_positions=6)


def tensors(config: GPT2Config = CONFIG, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights for every name of the trunk."""
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(s, dtype=np.float32) for n, s in trunk_shapes(config).items()}


def entries(weights: dict[str, np.ndarray]) -> tuple[dict[str, Any], bytes]:
    """The header, as an object to be changed, and the data of a good file."""
    header: dict[str, Any] = {}
    data = b""
    for name, array in weights.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        data += array.tobytes()
    return header, data


def pack(header: dict[str, Any] | bytes, data: bytes, length: int | None = None) -> bytes:
    """A file from a header and data; `length` overrides what the first eight bytes claim."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def write_folder(folder: Path, content: bytes, config: GPT2Config = CONFIG) -> Path:
    """A model folder whose weights are `content`."""
    config.save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(content)
    return folder
