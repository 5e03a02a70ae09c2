"""Which weight files a folder has, in the order of preference, and what an index says of its shards."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpt2kit.config.json_file import read_json_object
from gpt2kit.errors import CheckpointError, ConfigError

_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,250}")
_MAX_SHARDS = 4096
_NEWEST = re.compile(rb'^model_checkpoint_path:\s*"([^"\n]{1,1000})"', re.MULTILINE)


@dataclass(frozen=True)
class WeightFiles:
    """The files to read: safetensors, torch's .bin or the index of a TensorFlow checkpoint.

    weight_map, from an index of shards, says by the names in the files which tensor is where.
    """

    paths: tuple[Path, ...]
    format: Literal["safetensors", "bin", "tensorflow"]
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

    Where there are none, an OpenAI checkpoint. With `skip_safetensors` only .bin files are looked for.

    Raises CheckpointError when there are none, or only .bin files and they are not allowed.
    """
    infix = variant_infix(variant)
    kinds: tuple[tuple[str, Literal["safetensors", "bin"]], ...]
    kinds = (("model", "safetensors"), ("pytorch_model", "bin"))
    for stem, suffix in kinds[skip_safetensors:]:
        whole = folder / f"{stem}{infix}.{suffix}"
        index = folder / f"{stem}.{suffix}.index{infix}.json"
        if not whole.exists() and not index.exists():
            continue
        if suffix == "bin" and not allow_pickle:
            raise CheckpointError(
                f"{folder} has only .bin files, which are pickles: read carelessly, they run code; "
                "pass allow_pickle=True (use_safetensors=False where Transformers' names are used) if you trust "
                "where they came from, or convert them to safetensors"
            )
        if whole.exists():
            return WeightFiles((whole,), suffix)
        weight_map = read_index(index, suffix)
        return WeightFiles(
            tuple(folder / name for name in sorted(set(weight_map.values()))), suffix, weight_map
        )
    if variant is None and not skip_safetensors and (tensorflow := _tensorflow_index(folder)) is not None:
        return WeightFiles((tensorflow,), "tensorflow")
    wanted = f"model{infix}.safetensors or model.safetensors.index{infix}.json"
    if skip_safetensors:
        wanted = f"pytorch_model{infix}.bin or pytorch_model.bin.index{infix}.json"
    raise CheckpointError(f"{folder} has no weights: expected {wanted}")


def _tensorflow_index(folder: Path) -> Path | None:
    """Give the index of a folder's newest TensorFlow checkpoint, as the file `checkpoint` says, or None."""
    found = sorted(folder.glob("*.index"))
    if len(found) < 2:
        return found[0] if found else None
    said = folder / "checkpoint"
    if said.is_file():
        with open(said, "rb") as file:
            newest = _NEWEST.search(file.read(2**16))
        # Training writes whole paths, of the machine that it ran on.
        name = newest[1].decode("utf-8", "replace").replace("\\", "/").rpartition("/")[2] if newest else ""
        if folder / f"{name}.index" in found:
            return folder / f"{name}.index"
    names = ", ".join(path.name for path in found[:4])
    raise CheckpointError(
        f"{folder} has {len(found)} TensorFlow checkpoints ({names}) and no file 'checkpoint' that names one "
        "of them; leave one in the folder"
    )


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
