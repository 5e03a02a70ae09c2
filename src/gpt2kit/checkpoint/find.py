"""Which weight files a folder has, in the order of preference, and what an index says of its shards."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gpt2kit.config.json_file import read_json_object
from gpt2kit.errors import CheckpointError, ConfigError

_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,250}")
_MAX_SHARDS = 4096


@dataclass(frozen=True)
class WeightFiles:
    """The files to read. weight_map, from an index, says by the names in the files which tensor is where."""

    paths: tuple[Path, ...]
    is_pickle: bool
    weight_map: dict[str, str] | None = None


def variant_infix(variant: str | None) -> str:
    """Give what stands before the suffix of a variant's file, such as ".fp16", or "". Raises CheckpointError."""
    if variant is not None and _SHARD.fullmatch(variant) is None:
        raise CheckpointError(f"variant is {variant!r}; allowed: a word such as 'fp16'")
    return f".{variant}" if variant else ""


def find_weights(
    folder: Path, *, allow_pickle: bool, variant: str | None, skip_safetensors: bool = False
) -> WeightFiles:
    """Choose a folder's weights: safetensors, whole or in shards, then .bin files if they are allowed.

    With `skip_safetensors` only .bin files are looked for.

    Raises CheckpointError when there are none, or only .bin files and they are not allowed.
    """
    infix = variant_infix(variant)
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin"))[skip_safetensors:]:
        whole = folder / f"{stem}{infix}.{suffix}"
        index = folder / f"{stem}.{suffix}.index{infix}.json"
        is_pickle = suffix == "bin"
        if not whole.exists() and not index.exists():
            continue
        if is_pickle and not allow_pickle:
            raise CheckpointError(
                f"{folder} has only .bin files, which are pickles: read carelessly, they run code; "
                "pass allow_pickle=True (use_safetensors=False where Transformers' names are used) if you trust "
                "where they came from, or convert them to safetensors"
            )
        if whole.exists():
            return WeightFiles((whole,), is_pickle)
        weight_map = read_index(index, suffix)
        return WeightFiles(
            tuple(folder / name for name in sorted(set(weight_map.values()))), is_pickle, weight_map
        )
    wanted = f"model{infix}.safetensors or model.safetensors.index{infix}.json"
    if skip_safetensors:
        wanted = f"pytorch_model{infix}.bin or pytorch_model.bin.index{infix}.json"
    raise CheckpointError(f"{folder} has no weights: expected {wanted}")


def read_index(path: Path, suffix: str) -> dict[str, str]:
    """Read the weight_map of an index: tensor name -> shard file, which must lie beside the index.

    Raises CheckpointError for anything else, such as a shard name that leads out of the folder.
    """
    try:
        content = read_json_object(path)
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map from tensor names to shards")
    for tensor, shard in weight_map.items():
        is_name = (
            isinstance(shard, str) and _SHARD.fullmatch(shard) is not None and shard.endswith(f".{suffix}")
        )
        if not is_name:
            shown = str(shard)[:80]
            raise CheckpointError(
                f"{path}: tensor {tensor[:80]!r} is mapped to {shown!r}; allowed: a .{suffix} file beside it"
            )
    if len(set(weight_map.values())) > _MAX_SHARDS:
        raise CheckpointError(f"{path} names more than {_MAX_SHARDS} shards")
    return weight_map
