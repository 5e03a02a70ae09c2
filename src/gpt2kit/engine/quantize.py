"""Which weights of a model the native engine holds in few bits: made so at load, or read from a packed folder.

packed.py makes such folders on request; quant_cache.py keeps those that loading made.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2kit import _native
from gpt2kit.checkpoint import open_checkpoint
from gpt2kit.checkpoint.names import LM_HEAD, WTE, head_shapes, is_conv1d, trunk_shapes
from gpt2kit.checkpoint.packed import PackedInt8, packed_shapes
from gpt2kit.config.packed import packed_format, packed_settings
from gpt2kit.engine.quant_cache import through_cache
from gpt2kit.errors import CheckpointError, ConfigError, EngineError

if TYPE_CHECKING:
    from gpt2kit.checkpoint import Checkpoint
    from gpt2kit.config import GenerationConfig, GPT2Config

QUANTS = ("int8",)
METADATA_FORMAT = "gpt2kit-int8"  # of packed files; other tools know "pt" and refuse this one


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
    if dtype != "auto" and (quant or packed):
        raise EngineError(f"dtype is {dtype!r}, but the weights are in {quant or packed}; leave dtype out")
    if packed is not None:
        return packed_weights(checkpoint, names)
    if quant is not None:
        return _quantized_at_load(checkpoint, names, quant, quant_cache, threads)
    if dtype == "auto":
        checkpoint.prefault()
    return {name: checkpoint.weights(name, dtype) for name in names}


def _quantized_at_load(
    checkpoint: Checkpoint, names: list[str], quant: str, quant_cache: bool, threads: int
) -> dict[str, Any]:
    def quantize() -> dict[str, Any]:
        return quantized_weights(checkpoint, names, threads)

    def read(folder: Path) -> dict[str, Any]:
        return packed_weights(open_checkpoint(folder, config=_packed_config(checkpoint, quant)), names)

    def write(folder: Path, weights: dict[str, Any]) -> object:
        return write_packed(folder, checkpoint, weights, quant)

    return through_cache(checkpoint, names, quant, quantize, read, write) if quant_cache else quantize()


def quantized_weights(checkpoint: Checkpoint, names: list[str], threads: int) -> dict[str, Any]:
    """Give the weights for the native engine, each matrix as PackedInt8. Raises EngineError."""
    from gpt2kit.quant.int8 import packed_int8

    weights: dict[str, Any] = {}
    for name in names:
        if not is_matrix(name):
            weights[name] = checkpoint.weights(name)
            continue
        values = checkpoint.tensor(name)
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
    checkpoint.prefault()
    weights: dict[str, Any] = {}
    for name in names:
        if is_matrix(name):
            rows, columns = shapes[name]
            shape = (columns, rows) if name in (WTE, LM_HEAD) else (rows, columns)
            weights[name] = _read_packed(checkpoint, name, shape)
        elif not name.endswith(".scales"):
            weights[name] = checkpoint.weights(name)
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
        if isinstance(array, PackedInt8):
            parts[name], parts[f"{name}.scales"] = array.codes, array.scales
        else:
            parts[name], dtypes[name] = checkpoint.tensor(name), checkpoint.info(name).dtype
    return save_checkpoint(
        folder,
        parts,
        _packed_config(checkpoint, format),
        dtypes=dtypes,
        metadata={"format": METADATA_FORMAT},
        generation_config=generation_config,
    )


def _packed_config(checkpoint: Checkpoint, format: str) -> GPT2Config:
    config = copy.deepcopy(checkpoint.config)
    config.quantization_config = packed_settings(format)
    return config


def _read_packed(checkpoint: Checkpoint, name: str, shape: tuple[int, int]) -> PackedInt8:
    parts = []
    expectations = zip((name, f"{name}.scales"), ("U8", "BF16"), packed_shapes(shape), strict=True)
    for part, dtype, expected in expectations:
        if part not in checkpoint:
            raise CheckpointError(f"{checkpoint.folder}: tensor {part!r} is missing")
        info = checkpoint.info(part)
        if (info.dtype, info.shape) != (dtype, expected):
            raise CheckpointError(
                f"{checkpoint.folder}: tensor {part!r} is {info.dtype} {info.shape}; the format needs "
                f"{dtype} {expected}"
            )
        parts.append(checkpoint.buffer(part))
    codes, scales = parts
    if not _native.are_scales(scales):
        raise CheckpointError(
            f"{checkpoint.folder}: tensor '{name}.scales' has scales that are negative or not finite"
        )
    return PackedInt8(codes, scales, shape)
