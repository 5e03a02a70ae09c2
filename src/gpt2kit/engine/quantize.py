"""Which weights of a model the native engine holds in 8 and 4 bits: made so at load, or read from a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2kit.checkpoint import BFloat16Array
from gpt2kit.checkpoint.names import (
    LM_HEAD,
    WTE,
    head_shapes,
    is_conv1d,
    quantized_parts,
    quantized_weight,
    trunk_shapes,
)
from gpt2kit.config.bitsandbytes import quantization_of
from gpt2kit.config.packed import PACKED_FORMATS, packed_format
from gpt2kit.errors import CheckpointError, ConfigError, EngineError
from gpt2kit.quant.four_bit import Quantized4bit
from gpt2kit.quant.int8 import PackedInt8, packed_int8, packed_shapes
from gpt2kit.quant.nf4 import PackedNf4, check_scales, nf4_shapes, pack_nf4, packed_nf4
from gpt2kit.quant.stored import read_quantized

if TYPE_CHECKING:
    from gpt2kit.checkpoint import Checkpoint

QUANTS = PACKED_FORMATS
_INFINITE = np.uint16(0x7F80)  # the bits of bfloat16; those of negative numbers are larger


def metadata_format(quant: str) -> str:
    """Give the format that the metadata of packed files name; other tools know "pt" and refuse this one."""
    return f"gpt2kit-{quant}"


def check_quant(quant: str | None) -> None:
    """Raise EngineError for a quant that is none."""
    if quant is not None and quant not in QUANTS:
        raise EngineError(f"quant is {quant!r}; it must be None or one of {', '.join(map(repr, QUANTS))}")


def is_matrix(name: str) -> bool:
    """Tell whether a weight, by canonical name, is a matrix that is multiplied by: the rest keeps its format."""
    return name in (WTE, LM_HEAD) or is_conv1d(name)


def native_weights(
    checkpoint: Checkpoint, names: list[str], dtype: str = "auto", quant: str | None = None, threads: int = 1
) -> dict[str, Any]:
    """Give weights for the native engine; dtype and quant as for load_engine. Raises EngineError.

    threads: how many convert or quantise.
    """
    check_quant(quant)
    packed = packed_format(checkpoint.config)
    is_bitsandbytes = quantization_of(checkpoint.config) is not None
    stored = packed or ("nf4" if is_bitsandbytes else None)
    if quant is not None and stored not in (None, quant):
        raise EngineError(f"quant is {quant!r}, but the folder is in {stored}; leave quant out")
    if is_bitsandbytes:
        return bitsandbytes_weights(checkpoint, names, dtype, threads)
    if dtype != "auto" and (quant or packed):
        raise EngineError(f"dtype is {dtype!r}, but the weights are in {quant or packed}; leave dtype out")
    if packed is not None:
        return packed_weights(checkpoint, names, packed)
    if quant is not None:
        return quantized_weights(checkpoint, names, quant, threads)
    return {name: checkpoint.weights(name, dtype) for name in names}


def quantized_weights(checkpoint: Checkpoint, names: list[str], quant: str, threads: int) -> dict[str, Any]:
    """Give the weights for the native engine, each matrix as PackedInt8, with "nf4" those of blocks as PackedNf4.

    Embeddings and head stay in 8 bits: bitsandbytes leaves them alone, and they feel 4 bits most. Raises EngineError.
    """
    weights: dict[str, Any] = {}
    for name in names:
        values = checkpoint.weights(name)
        if not is_matrix(name):
            weights[name] = values
            continue
        if isinstance(values, BFloat16Array):
            values = values.bits
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


def _read_int8(checkpoint: Checkpoint, name: str, shape: tuple[int, int]) -> PackedInt8:
    codes_shape, scales_shape = packed_shapes(shape)
    codes = _read_part(checkpoint, name, "U8", codes_shape)
    scales = _read_part(checkpoint, f"{name}.scales", "BF16", scales_shape)
    if scales.size and scales.max() >= _INFINITE:
        raise CheckpointError(
            f"{checkpoint.folder}: tensor '{name}.scales' has scales that are negative or not finite"
        )
    return PackedInt8(codes, scales, shape)


def _read_nf4(checkpoint: Checkpoint, name: str, shape: tuple[int, int]) -> PackedNf4:
    try:
        codes, absmax, nested_absmax, nested_offset = (
            _read_part(checkpoint, f"{name}{suffix}", dtype, expected)
            for (suffix, expected), dtype in zip(
                nf4_shapes(shape).items(), ("U8", "U8", "F32", "F32"), strict=True
            )
        )
        packed = PackedNf4(codes, absmax, nested_absmax, nested_offset, shape)
        check_scales(packed)
    except ConfigError as error:
        raise CheckpointError(f"{checkpoint.folder}: tensor {name!r}: {error}") from None
    return packed


def _read_part(checkpoint: Checkpoint, name: str, dtype: str, shape: tuple[int, ...]) -> Any:
    if name not in checkpoint:
        raise CheckpointError(f"{checkpoint.folder}: tensor {name!r} is missing")
    info = checkpoint.info(name)
    if (info.dtype, info.shape) != (dtype, shape):
        raise CheckpointError(
            f"{checkpoint.folder}: tensor {name!r} is {info.dtype} {info.shape}; the format needs {dtype} {shape}"
        )
    return checkpoint.tensor(name)
