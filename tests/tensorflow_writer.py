"""A tiny writer of TensorFlow's checkpoints, as OpenAI published GPT-2: the twin that the reader is held to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gpt2kit.checkpoint.crc32c import crc32c, mask
from gpt2kit.config import GPT2Config

DTYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19, "uint16": 14}  # uint16: bfloat16
MAGIC = 0xDB4775248B80FB57


def varint(value: int) -> bytes:
    encoded = b""
    while value >= 0x80:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def checksum(data: bytes) -> bytes:
    return mask(crc32c(np.frombuffer(data, np.uint8))).to_bytes(4, "little")


def entry(dtype: int, shape: tuple[int, ...], shard: int, offset: int, data: bytes) -> bytes:
    """A BundleEntryProto."""
    dimensions = b"".join(field(2, field(1, size)) for size in shape)
    place = field(3, shard) * bool(shard) + field(4, offset) * bool(offset)
    return field(1, dtype) + field(2, dimensions) + place + field(5, len(data)) + b"\x35" + checksum(data)


def block(entries: list[tuple[bytes, bytes]], restart_interval: int = 16) -> bytes:
    content, restarts, last = b"", [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % restart_interval == 0:
            restarts.append(len(content))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    for restart in restarts or [0]:
        content += restart.to_bytes(4, "little")
    return content + len(restarts or [0]).to_bytes(4, "little")


def table(entries: Mapping[bytes, bytes], entries_per_block: int = 20) -> bytes:
    """A sorted table in LevelDB's format."""
    data, handles = b"", []

    def add(content: bytes) -> bytes:
        nonlocal data
        handle = varint(len(data)) + varint(len(content))
        data += content + b"\0" + checksum(content + b"\0")
        return handle

    items = sorted(entries.items())
    for i in range(0, len(items), entries_per_block):
        part = items[i : i + entries_per_block]
        handles.append((part[-1][0] + b"\0", add(block(part))))
    footer = add(block([])) + add(block(handles, restart_interval=1))
    return data + footer.ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


def write_bundle(prefix: Path, tensors: Mapping[str, np.ndarray], num_shards: int = 1) -> None:
    """Write PREFIX.index and its data, tensors dealt out to the shards in turn."""
    shards = [b""] * num_shards
    entries = {b"": field(1, num_shards) + field(3, field(1, 1))}
    for i, (name, array) in enumerate(sorted(tensors.items())):
        data = np.ascontiguousarray(array).tobytes()
        shard = i % num_shards
        entries[name.encode()] = entry(DTYPES[array.dtype.name], array.shape, shard, len(shards[shard]), data)
        shards[shard] += data
    Path(f"{prefix}.index").write_bytes(table(entries))
    for i, data in enumerate(shards):
        Path(f"{prefix}.data-{i:05d}-of-{num_shards:05d}").write_bytes(data)


def name_of(canonical: str) -> str:
    """OpenAI's name of a tensor."""
    if canonical in ("wte.weight", "wpe.weight"):
        return f"model/{canonical[:3]}"
    *parts, leaf = canonical.split(".")
    leaf = "b" if leaf == "bias" else "g" if parts[-1].startswith("ln_") else "w"
    layer = f"h{parts[1]}/" if parts[0] == "h" else ""
    return f"model/{layer}{'/'.join(parts[2:] if layer else parts)}/{leaf}"


def write_openai_folder(
    folder: Path, config: GPT2Config, weights: Mapping[str, np.ndarray], num_shards: int = 1
) -> dict[str, np.ndarray]:
    """Write a model as OpenAI's download script leaves it, without the vocabulary; gives the tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name_of(name): value[None] if name_of(name).endswith("/w") else value
        for name, value in weights.items()
    }
    write_bundle(folder / "model.ckpt", tensors, num_shards)
    (folder / "model.ckpt.meta").write_bytes(b"a graph")
    (folder / "checkpoint").write_text(
        'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'
    )
    hparams = {
        "n_vocab": config.vocab_size,
        "n_ctx": config.n_positions,
        "n_embd": config.n_embd,
        "n_head": config.n_head,
        "n_layer": config.n_layer,
    }
    (folder / "hparams.json").write_text(json.dumps(hparams))
    return tensors
