"""Which weights of a model the native engine holds in 8 bits: made so at load, or read from a packed folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2kit.checkpoint import BFloat16Array
from gpt2kit.checkpoint.names import LM_HEAD, WTE, head_shapes, is_conv1d, trunk_shapes
from gpt2kit.config.packed import packed_format
from gpt2kit.errors import CheckpointError, ConfigError, EngineError
from gpt2kit.quant.int8 import PackedInt8, packed_int8, packed_shapes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpt2kit.checkpoint import Checkpoint

QUANTS = ("int8",)
METADATA_FORMAT = "gpt2kit-int8"  # of packed files; other tools know "pt" and refuse this one
_INFINITE = np.uint16(0x7F80)  # the bits of bfloat16; those of negative numbers are larger


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
    if dtype != "auto" and (quant or packed):
        raise EngineError(f"dtype is {dtype!r}, but the weights are in {quant or packed}; leave dtype out")
    if packed is not None:
        return packed_weights(checkpoint, names)
    if quant is not None:
        return quantized_weights(checkpoint, names, threads)
    return {name: checkpoint.weights(name, dtype) for name in names}


def quantized_weights(checkpoint: Checkpoint, names: list[str], threads: int) -> dict[str, Any]:
    """Give the weights for the native engine, each matrix as PackedInt8. Raises EngineError."""
    weights: dict[str, NDArray[Any] | BFloat16Array | PackedInt8] = {}
    for name in names:
        if not is_matrix(name):
            weights[name] = checkpoint.weights(name)
            continue
        values = checkpoint.weights(name)
        if isinstance(values, BFloat16Array):
            values = values.bits
        try:
            weights[name] = packed_int8(values.T if name in (WTE, LM_HEAD) else values, threads)
        except ConfigError as error:
            raise EngineError(f"{name}: {error}; use quant=None") from None
        checkpoint.release(name)
    return weights


def packed_weights(checkpoint: Checkpoint, names: list[str]) -> dict[str, Any]:
    """Give the weights of a packed folder where they lie, checked. Raises CheckpointError."""
    if checkpoint.metadata.get("format") != METADATA_FORMAT:
        raise CheckpointError(
            f"{checkpoint.folder}: config.json says int8, but the metadata of the weights does not; "
            "quantise the original again"
        )
    shapes = {**trunk_shapes(checkpoint.config), **head_shapes(checkpoint.config)}
    weights: dict[str, NDArray[Any] | BFloat16Array | PackedInt8] = {}
    for name in names:
        if is_matrix(name):
            rows, columns = shapes[name]
            shape = (columns, rows) if name in (WTE, LM_HEAD) else (rows, columns)
            weights[name] = _read_packed(checkpoint, name, shape)
        elif not name.endswith(".scales"):
            weights[name] = checkpoint.weights(name)
    return weights


def _read_packed(checkpoint: Checkpoint, name: str, shape: tuple[int, int]) -> PackedInt8:
    arrays = []
    parts = zip((name, f"{name}.scales"), ("U8", "BF16"), packed_shapes(shape), strict=True)
    for part, dtype, expected in parts:
        if part not in checkpoint:
            raise CheckpointError(f"{checkpoint.folder}: tensor {part!r} is missing")
        info = checkpoint.info(part)
        if (info.dtype, info.shape) != (dtype, expected):
            raise CheckpointError(
                f"{checkpoint.folder}: tensor {part!r} is {info.dtype} {info.shape}; the format needs "
                f"{dtype} {expected}"
            )
        arrays.append(checkpoint.tensor(part))
    codes, scales = arrays
    if scales.size and scales.max() >= _INFINITE:
        raise CheckpointError(
            f"{checkpoint.folder}: tensor '{name}.scales' has scales that are negative or not finite"
        )
    return PackedInt8(codes, scales, shape)
