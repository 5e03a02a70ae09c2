"""Which weights of a model the native engine holds in few bits: made so at load, or read from a packed folder.

packed.py makes such folders on request; quant_cache.py keeps those that loading made.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2kit import _native
from gpt2kit.checkpoint import open_checkpoint
from gpt2kit.checkpoint.names import (
    LM_HEAD,
    WTE,
    head_shapes,
    is_conv1d,
    quantized_parts,
    quantized_weight,
    trunk_shapes,
)
from gpt2kit.checkpoint.packed import PackedInt8, PackedNf4, nf4_shapes, packed_shapes
from gpt2kit.config.bitsandbytes import quantization_of
from gpt2kit.config.packed import PACKED_FORMATS, packed_format, packed_settings
from gpt2kit.engine.quant_cache import through_cache
from gpt2kit.errors import CheckpointError, ConfigError, EngineError

if TYPE_CHECKING:
    from gpt2kit.checkpoint import Checkpoint
    from gpt2kit.config import GenerationConfig, GPT2Config

QUANTS = PACKED_FORMATS


def metadata_format(format: str) -> str:
    """Give the format that the metadata of packed files name; other tools know "pt" and refuse this one."""
    return f"gpt2kit-{format}"


def check_quant(quant: str | None) -> None:
    """Raise EngineError for a quant that is none."""
    if quant is not None and quant not in QUANTS:
        raise EngineError(f"quant is {quant!r}; it must be None or one of {', '.join(map(repr, QUANTS))}")


def is_matrix(name: str) -> bool:
    """Tell whether a weight, by canonical name, is a matrix that is multiplied by: the rest keeps its format."""
    return name in (WTE, LM_HEAD) or is_conv1d(name)


def native_weights(
    checkpoint: Checkpoint,
    names: list[str],
    dtype: str = "auto",
    quant: str | None = None,
    *,
    quant_cache: bool = True,
    threads: int = 1,
) -> dict[str, Any]:
    """Give weights for the native engine; dtype, quant and quant_cache as for load_engine. Raises EngineError.

    threads: how many convert or quantise.
    """
    check_quant(quant)
    packed = packed_format(checkpoint.config)
    is_bitsandbytes = packed is None and quantization_of(checkpoint.config) is not None
    stored = "nf4" if is_bitsandbytes else packed
    if quant is not None and stored not in (None, quant):
        raise EngineError(f"quant is {quant!r}, but the folder is in {stored}; leave quant out")
    if is_bitsandbytes:
        return bitsandbytes_weights(checkpoint, names, dtype, threads)
    if dtype != "auto" and (quant or packed):
        raise EngineError(f"dtype is {dtype!r}, but the weights are in {quant or packed}; leave dtype out")
    if packed is not None:
        return packed_weights(checkpoint, names, packed)
    if quant is not None:
        return _quantized_at_load(checkpoint, names, quant, quant_cache, threads)
    if dtype == "auto":
        checkpoint.prefault()
    return {name: checkpoint.weights(name, dtype) for name in names}


def _quantized_at_load(
    checkpoint: Checkpoint, names: list[str], quant: str, quant_cache: bool, threads: int
) -> dict[str, Any]:
    def quantize() -> dict[str, Any]:
        return quantized_weights(checkpoint, names, quant, threads)

    def read(folder: Path) -> dict[str, Any]:
        return packed_weights(open_checkpoint(folder, config=_packed_config(checkpoint, quant)), names, quant)

    def write(folder: Path, weights: dict[str, Any]) -> object:
        return write_packed(folder, checkpoint, weights, quant)

    return through_cache(checkpoint, names, quant, quantize, read, write) if quant_cache else quantize()


def quantized_weights(checkpoint: Checkpoint, names: list[str], quant: str, threads: int) -> dict[str, Any]:
    """Give the weights for the native engine, each matrix as PackedInt8, with "nf4" those of blocks as PackedNf4.

    Embeddings and head stay in 8 bits: bitsandbytes leaves them alone, and they feel 4 bits most. Raises EngineError.
    """
    from gpt2kit.quant.int8 import packed_int8
    from gpt2kit.quant.nf4 import packed_nf4

    weights: dict[str, Any] = {}
    for name in names:
        if not is_matrix(name):
            weights[name] = checkpoint.weights(name)
            continue
        values = checkpoint.tensor(name)
        try:
            if name in (WTE, LM_HEAD):
                weights[name] = packed_int8(values.T, threads)
            else:
                weights[name] = (packed_int8 if quant == "int8" else packed_nf4)(values, threads)
        except ConfigError as error:
            raise EngineError(f"{name}: {error}; use another quant or None") from None
        checkpoint.release(name)
    return weights


def bitsandbytes_weights(
    checkpoint: Checkpoint, names: list[str], dtype: str, threads: int
) -> dict[str, Any]:
    """Give the weights of a folder in bitsandbytes' NF4: codes and scales bit for bit, the rest in dtype.

    Raises CheckpointError for parts that do not fit and EngineError for matrices in another format.
    """
    from gpt2kit.quant import Quantized4bit, pack_nf4, read_quantized

    shapes = {**trunk_shapes(checkpoint.config), **head_shapes(checkpoint.config)}
    weights: dict[str, Any] = {}
    for name in names:
        if quantized_weight(name) is not None:
            continue
        described = quantized_parts(names, name)
        if not described:
            weights[name] = checkpoint.weights(name, dtype)
            continue
        parts = {part: checkpoint.tensor(part) for part in [name, *described]}
        rows, columns = shapes[name]
        shape = (columns, rows) if is_conv1d(name) else (rows, columns)
        matrix = read_quantized(parts, name, shape, str(checkpoint.folder))
        if not isinstance(matrix, Quantized4bit):
            raise EngineError(f"{name}: the matrix is not in the 4 bits of its config; use engine='torch'")
        try:
            weights[name] = pack_nf4(matrix, threads)
        except ConfigError as error:
            raise EngineError(f"{name}: {error}; use engine='torch'") from None
        for part in parts:
            checkpoint.release(part)
    return weights


def packed_weights(checkpoint: Checkpoint, names: list[str], format: str) -> dict[str, Any]:
    """Give the weights of a packed folder where they lie, checked. Raises CheckpointError."""
    if checkpoint.metadata.get("format") != metadata_format(format):
        raise CheckpointError(
            f"{checkpoint.folder}: config.json says {format}, but the metadata of the weights does not; "
            "quantise the original again"
        )
    shapes = {**trunk_shapes(checkpoint.config), **head_shapes(checkpoint.config)}
    checkpoint.prefault()
    weights: dict[str, Any] = {}
    for name in names:
        if quantized_weight(name) is not None:
            continue
        if not is_matrix(name):
            weights[name] = checkpoint.weights(name)
            continue
        rows, columns = shapes[name]
        if name in (WTE, LM_HEAD):
            weights[name] = _read_int8(checkpoint, name, (columns, rows))
        else:
            weights[name] = (_read_int8 if format == "int8" else _read_nf4)(checkpoint, name, (rows, columns))
    return weights


def write_packed(
    folder: Path,
    checkpoint: Checkpoint,
    weights: dict[str, Any],
    format: str,
    generation_config: GenerationConfig | None = None,
) -> list[str]:
    """Write what quantized_weights gave for a checkpoint as a packed folder; give the files' names.

    Raises as save_checkpoint does.
    """
    from gpt2kit.checkpoint import save_checkpoint

    parts: dict[str, Any] = {}
    dtypes: dict[str, str] = {}
    for name, array in weights.items():
        if isinstance(array, (PackedInt8, PackedNf4)):
            parts |= {f"{name}{suffix}": part for suffix, part in array.parts().items()}
        else:
            parts[name], dtypes[name] = checkpoint.tensor(name), checkpoint.info(name).dtype
    return save_checkpoint(
        folder,
        parts,
        _packed_config(checkpoint, format),
        dtypes=dtypes,
        metadata={"format": metadata_format(format)},
        generation_config=generation_config,
    )


def _packed_config(checkpoint: Checkpoint, format: str) -> GPT2Config:
    config = copy.deepcopy(checkpoint.config)
    config.quantization_config = packed_settings(format)
    return config


def _read_int8(checkpoint: Checkpoint, name: str, shape: tuple[int, int]) -> PackedInt8:
    codes_shape, scales_shape = packed_shapes(shape)
    codes = _read_part(checkpoint, name, "U8", codes_shape)
    scales = _read_part(checkpoint, f"{name}.scales", "BF16", scales_shape)
    if not _native.are_scales(scales):
        raise CheckpointError(
            f"{checkpoint.folder}: tensor '{name}.scales' has scales that are negative or not finite"
        )
    return PackedInt8(codes, scales, shape)


def _read_nf4(checkpoint: Checkpoint, name: str, shape: tuple[int, int]) -> PackedNf4:
    try:
        shapes = nf4_shapes(shape)
    except ConfigError as error:
        raise CheckpointError(f"{checkpoint.folder}: tensor {name!r}: {error}") from None

    def part(suffix: str, dtype: str) -> Any:
        return _read_part(checkpoint, f"{name}{suffix}", dtype, shapes[suffix])

    scales = {suffix: part(suffix, "F32") for suffix in (".nested_absmax", ".nested_offset")}
    for suffix, values in scales.items():
        if not _native.are_finite(values):
            raise CheckpointError(f"{checkpoint.folder}: tensor '{name}{suffix}' is not finite")
    return PackedNf4(
        part("", "U8"), part(".absmax", "U8"), scales[".nested_absmax"], scales[".nested_offset"], shape
    )


def _read_part(checkpoint: Checkpoint, name: str, dtype: str, shape: tuple[int, ...]) -> Any:
    if name not in checkpoint:
        raise CheckpointError(f"{checkpoint.folder}: tensor {name!r} is missing")
    info = checkpoint.info(name)
    if (info.dtype, info.shape) != (dtype, shape):
        raise CheckpointError(
            f"{checkpoint.folder}: tensor {name!r} is {info.dtype} {info.shape}; the format needs {dtype} {shape}"
        )
    return checkpoint.buffer(name)
