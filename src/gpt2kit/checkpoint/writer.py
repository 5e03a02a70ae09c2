"""save_checkpoint: weights and configuration as a folder that any tool for GPT-2 reads.

A new folder appears whole or not at all. In a folder that exists, each file is replaced whole, weights first,
after all of them have been written and flushed.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from gpt2kit.checkpoint.dtypes import CONFIG_DTYPES, ITEM_BYTES, STORED_DTYPES, WEIGHT_DTYPES, from_float32
from gpt2kit.checkpoint.find import variant_infix
from gpt2kit.checkpoint.names import (
    LM_HEAD,
    TRUNK_PREFIX,
    WTE,
    canonical_name,
    file_name,
    head_shapes,
    is_conv1d,
    quantized_weight,
    shapes_match,
    trunk_shapes,
)
from gpt2kit.config import CONFIG_NAME, GenerationConfig, GPT2Config
from gpt2kit.config.bitsandbytes import quantization_of
from gpt2kit.config.packed import packed_format
from gpt2kit.errors import CheckpointError
from gpt2kit.files import fsync_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ALIGNMENT = 64  # of the data in the file: a cache line, and more than any item needs
_CHUNK = 2**18  # elements converted at a time, so that a large tensor is never there twice
_UNITS = {
    "": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}
_ARCHITECTURES = (
    ("score.", "GPT2ForSequenceClassification"),
    ("classifier.", "GPT2ForTokenClassification"),
    ("qa_outputs.", "GPT2ForQuestionAnswering"),
    ("multiple_choice_head.", "GPT2DoubleHeadsModel"),
)
# Tensors of one file by their names in it, each with the format it is written in.
Shard: TypeAlias = "dict[str, tuple[NDArray[Any], str]]"

_WITH_LM_HEAD = ("GPT2LMHeadModel", "GPT2DoubleHeadsModel")


def save_checkpoint(
    folder: str | os.PathLike[str],
    tensors: Mapping[str, NDArray[Any]],
    config: GPT2Config,
    *,
    max_shard_size: int | str = "50GB",
    metadata: Mapping[str, str] | None = None,
    dtypes: str | Mapping[str, str] | None = None,
    variant: str | None = None,
    allow_missing: bool = False,
    generation_config: GenerationConfig | None = None,
) -> list[str]:
    """Write weights and config.json into a folder, as safetensors in Transformers' naming.

    Gives the names of the files, the configurations last. With `generation_config` it is written too.

    `tensors` are by canonical name (a leading `transformer.` is accepted): float32 or float16 arrays of the
    shapes that `config` makes; the trunk must be complete, unless `allow_missing`. `dtypes`, for all or by name, is the format in the
    file: "F32", "F16" or "BF16"; float32 arrays are rounded to it; a uint16 array is taken as the bits of
    bfloat16 and needs "BF16"; parts of quantised weights, if config has a quantization_config, are written as
    they are. An `lm_head.weight` that is tied to wte.weight is left out. Above `max_shard_size` (bytes, or "5GB")
    the weights are split into shards with an index. `variant` "fp16" makes model.fp16.safetensors. `config` is not
    changed; the copy that is written names an architecture, the dtype of the weights and n_ctx, an old name
    of n_positions that llama.cpp's converter asks for.

    A new folder is made whole under another name and renamed. In an existing folder every file is written and
    flushed under another name before the first is renamed, and weights in other files of this format are
    removed at the end; other files are left alone.

    Raises CheckpointError before anything is written, or OSError, which leaves what was there before.
    """
    limit = _shard_limit(max_shard_size)
    noted = {"format": "pt", **(metadata or {})}
    if any(type(key) is not str or type(value) is not str for key, value in noted.items()):
        raise CheckpointError("metadata may only map strings to strings; convert the values")
    config = copy.deepcopy(config)
    weights = _checked(tensors, config, dtypes, allow_missing)
    written = {name: dtype for name, (_, dtype) in weights.items()}
    named_dtypes = [CONFIG_DTYPES.get(written[name]) for name in (WTE, *written) if name in written]
    config.dtype = next(filter(None, named_dtypes), None)
    if "n_ctx" not in config:
        config.update({"n_ctx": config.n_positions})
    if not config.architectures:
        present = next(
            (arch for start, arch in _ARCHITECTURES if any(n.startswith(start) for n in weights)), None
        )
        config.architectures = [present or "GPT2LMHeadModel"]
    _check_tie(weights, config, allow_missing)
    stem = f"model{variant_infix(variant)}"
    index = f"model.safetensors.index{variant_infix(variant)}.json"
    prefix = "" if config.architectures == ["GPT2Model"] else TRUNK_PREFIX
    named = {file_name(name, prefix): value for name, value in weights.items()}
    with _staging(Path(folder), _stale(stem, index)) as (stage, keep):
        shards = _split(named, limit, stem)
        for name, shard in shards.items():
            write_safetensors(stage / name, shard, noted)
        if len(shards) > 1:
            _write_index(stage / index, shards)
        keep.extend([*shards, *([index] if len(shards) > 1 else []), CONFIG_NAME])
        config.save_pretrained(stage)
        if generation_config is not None:
            keep.append(generation_config.save_pretrained(stage).name)
    return keep


def _checked(
    tensors: Mapping[str, NDArray[Any]],
    config: GPT2Config,
    dtypes: str | Mapping[str, str] | None,
    allow_missing: bool,
) -> dict[str, tuple[NDArray[Any], str]]:
    trunk, heads = trunk_shapes(config), head_shapes(config)
    quantization = quantization_of(config)
    packed = packed_format(config)
    is_quantized = quantization is not None or packed is not None
    quantized = _quantized_names(tensors, {**trunk, **heads}) if is_quantized else {}
    weights: dict[str, tuple[NDArray[Any], str]] = {}
    for given, array in tensors.items():
        name = canonical_name(given)
        if name in quantized:
            weights[name] = (array, quantized[name])
            continue
        expected = trunk.get(name or "") or heads.get(name or "")
        if name is None or expected is None:
            raise CheckpointError(
                f"tensor {given!r} is no weight of a GPT-2 of this configuration; leave it out"
            )
        if quantization is not None and is_conv1d(name) and array.shape == expected[::-1]:
            expected = array.shape  # held in 16 bits by LLM.int8(), which stores (out, in)
        if name in weights:
            raise CheckpointError(f"tensor {given!r} is given twice, with and without {TRUNK_PREFIX!r}")
        if not shapes_match(array.shape, expected):
            raise CheckpointError(
                f"tensor {given!r} has shape {array.shape}; the configuration makes it {expected}"
            )
        wanted = dtypes if dtypes is None or isinstance(dtypes, str) else dtypes.get(given, dtypes.get(name))
        weights[name] = (array, _file_dtype(given, array.dtype, wanted))
    missing = [name for name in trunk if name not in weights]
    if not weights or (missing and not allow_missing):
        raise CheckpointError(
            f"tensor {missing[0]!r} is missing ({len(missing)} of {len(trunk)}); give them all"
        )
    # Larger items first keeps every tensor aligned, since the file has no gaps; otherwise the model's order.
    # Packed matrices are made of units: codes of cache lines, scales of 16 in a row.
    order = {name: i for i, name in enumerate([*trunk, *heads])}

    def size(item: tuple[str, tuple[NDArray[Any], str]]) -> int:
        name, (_, dtype) = item
        if not packed or name not in quantized or dtype == "F32":
            return ITEM_BYTES[dtype]
        return 64 if quantized_weight(name) is None else 16 * ITEM_BYTES[dtype]

    return dict(
        sorted(
            weights.items(),
            key=lambda item: (-size(item), order[quantized_weight(item[0]) or item[0]], item[0]),
        )
    )


def _quantized_names(
    tensors: Mapping[str, NDArray[Any]], known: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """Give the formats of quantised weights and of their parts, by canonical name: as the arrays are."""
    formats = {dtype: name for name, dtype in STORED_DTYPES.items()}  # by dtype.str
    described = {quantized_weight(canonical_name(given) or "") for given in tensors} & known.keys()
    names = {}
    for given, array in tensors.items():
        name = canonical_name(given) or ""
        if name in described or quantized_weight(name) in described:
            if array.dtype.str not in formats:
                raise CheckpointError(
                    f"tensor {given!r} is {array.dtype}, which no part of a quantised weight is"
                )
            names[name] = formats[array.dtype.str]
    return names


def _file_dtype(name: str, dtype: np.dtype[Any], wanted: str | None) -> str:
    if wanted is not None and wanted not in WEIGHT_DTYPES:
        raise CheckpointError(f"dtype of {name!r} is {wanted!r}; allowed: {', '.join(WEIGHT_DTYPES)}")
    own = {"float32": "F32", "float16": "F16", "uint16": "BF16"}.get(dtype.name)
    is_allowed = {"F32": True, "F16": wanted in (None, "F16"), "BF16": wanted == "BF16"}
    if own is None or not is_allowed[own]:
        raise CheckpointError(
            f"tensor {name!r} is {dtype.name} and its dtype in the file {wanted or 'not given'}; allowed: "
            "float32 to any of F32, F16 and BF16, float16 to F16, uint16 (the bits of bfloat16) to BF16"
        )
    return wanted or own


def _check_tie(weights: dict[str, tuple[NDArray[Any], str]], config: GPT2Config, allow_missing: bool) -> None:
    if config.tie_word_embeddings and LM_HEAD in weights and WTE in weights:
        import numpy as np

        if not np.array_equal(weights[LM_HEAD][0], weights[WTE][0]):
            raise CheckpointError(
                f"tensor {LM_HEAD!r} differs from {WTE!r}, but tie_word_embeddings is true; make it false"
            )
        del weights[LM_HEAD]
    has_lm_head = any(name in _WITH_LM_HEAD for name in config.architectures or ())
    if not config.tie_word_embeddings and LM_HEAD not in weights and has_lm_head and not allow_missing:
        raise CheckpointError(
            f"tensor {LM_HEAD!r} is missing, but config.tie_word_embeddings is false; give it"
        )


def _shard_limit(size: int | str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?B|)", str(size).upper())
    limit = int(float(match[1]) * _UNITS.get(match[2], 0)) if match and not isinstance(size, bool) else 0
    if limit < 1:
        raise CheckpointError(
            f"max_shard_size is {size!r}; allowed: bytes, or a text such as '5GB' or '200MiB'"
        )
    return limit


def _split(weights: Shard, limit: int, stem: str) -> dict[str, Shard]:
    """Fill shards in order; a tensor larger than the limit has one of its own."""
    shards: list[Shard] = [{}]
    used = 0
    for name, (array, dtype) in weights.items():
        nbytes = array.size * ITEM_BYTES[dtype]
        if shards[-1] and used + nbytes > limit:
            shards.append({})
            used = 0
        shards[-1][name] = (array, dtype)
        used += nbytes
    if len(shards) == 1:
        return {f"{stem}.safetensors": shards[0]}
    return {f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors": shard for i, shard in enumerate(shards, 1)}


def write_safetensors(path: Path, shard: Shard, metadata: Mapping[str, str]) -> None:
    """Write arrays with the names of their file dtypes, such as "F32", into a file that does not exist yet."""
    import numpy as np

    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    position = 0
    for name, (array, dtype) in shard.items():
        nbytes = array.size * ITEM_BYTES[dtype]
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [position, position + nbytes],
        }
        position += nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    with open(path, "xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array, dtype in shard.values():
            flat = np.ascontiguousarray(array).reshape(-1)
            for i in range(0, flat.size, _CHUNK):
                part = flat[i : i + _CHUNK]
                data = part if part.dtype.str == STORED_DTYPES[dtype] else from_float32(part, dtype)
                file.write(data.view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def _write_index(path: Path, shards: Mapping[str, Shard]) -> None:
    sizes = (array.size * ITEM_BYTES[dtype] for shard in shards.values() for array, dtype in shard.values())
    weight_map = {name: file for file, shard in shards.items() for name in shard}
    index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
    with open(path, "x", encoding="utf-8") as file:
        file.write(json.dumps(index, indent=2, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _stale(stem: str, index: str) -> re.Pattern[str]:
    """Match the files of weights that others of the same variant replace."""
    return re.compile(rf"{re.escape(stem)}(-\d{{5}}-of-\d{{5}})?\.safetensors|{re.escape(index)}")


@contextmanager
def _staging(folder: Path, stale: re.Pattern[str]) -> Iterator[tuple[Path, list[str]]]:
    """Give an empty folder to write into and a list for its files; then put them in place, in order.

    Files whose names are `stale` are removed when they are not among the new ones.
    """
    import shutil  # four compression libraries come with it

    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; give a folder")
    is_new = not folder.exists()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A sibling for a new folder, a child otherwise: either way on the file system of the destination.
    parent = folder.parent if is_new else folder
    stage = parent / f".{folder.name}.{os.urandom(6).hex()}.tmp"
    stage.mkdir()
    files: list[str] = []
    try:
        yield stage, files
        fsync_folder(stage)
        if is_new:
            os.rename(stage, folder)
        else:
            for name in files:
                os.replace(stage / name, folder / name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    fsync_folder(parent)
    for path in folder.iterdir():
        if stale.fullmatch(path.name) and path.name not in files:
            path.unlink()
