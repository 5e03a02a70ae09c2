"""Quantised weights in files: the tensors of one weight, by the ends of their names.

bitsandbytes writes, for a weight `w`, in 4 bits `w` (the packed bytes), `w.absmax`, `w.quant_map`, with double
quantisation `w.nested_absmax` and `w.nested_quant_map`, and `w.quant_state.bitsandbytes__nf4` (or fp4), the rest
as JSON in bytes. In 8 bits, beside `m.weight`, `m.SCB` and `m.weight_format`.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2kit.checkpoint import Checkpoint
from gpt2kit.checkpoint.names import quantized_parts
from gpt2kit.config.json_file import parse_json_object
from gpt2kit.errors import CheckpointError, ConfigError
from gpt2kit.quant.codes import CODES
from gpt2kit.quant.eight_bit import Quantized8bit
from gpt2kit.quant.four_bit import BLOCKSIZES, NestedScales, Quantized4bit

_DTYPES = ("float32", "float16", "bfloat16")
_MAX_STATE_BYTES = 4096


def stored_parts(
    name: str, weights: Quantized4bit | Quantized8bit, storage: str = "uint8"
) -> dict[str, NDArray[Any]]:
    """Give the tensors of a file for one weight, by their names.

    storage: the numpy dtype that 4-bit weights are viewed as ("uint16" for bfloat16). Raises ConfigError when the
    bytes do not fill whole items of it.
    """
    if isinstance(weights, Quantized8bit):
        module = name.removesuffix(".weight")
        return {
            name: weights.codes,
            f"{module}.SCB": weights.absmax,
            f"{module}.weight_format": np.zeros((), np.uint8),  # rows, the only order there is today
        }
    state: dict[str, Any] = {
        "quant_type": weights.quant_type,
        "blocksize": weights.blocksize,
        "dtype": weights.dtype,
        "shape": list(weights.shape),
    }
    parts: dict[str, NDArray[Any]] = {
        name: as_storage(weights.packed, storage),
        f"{name}.absmax": weights.absmax,
        f"{name}.quant_map": weights.code,
    }
    if weights.nested is not None:
        parts[f"{name}.nested_absmax"] = weights.nested.absmax
        parts[f"{name}.nested_quant_map"] = weights.nested.code
        state["nested_blocksize"] = weights.nested.blocksize
        state["nested_dtype"] = "float32"
        state["nested_offset"] = weights.nested.offset
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    parts[f"{name}.quant_state.bitsandbytes__{weights.quant_type}"] = text
    return parts


def as_storage(packed: NDArray[np.uint8], storage: str) -> NDArray[Any]:
    """View packed bytes as a column of items of another dtype. Raises ConfigError when they do not fill them."""
    item = np.dtype(storage).itemsize
    if packed.size % item:
        raise ConfigError(
            f"{packed.size} packed bytes do not fill whole items of {storage}; use bnb_4bit_quant_storage='uint8'"
        )
    return packed.view(storage).reshape(-1, 1)


def read_quantized(
    checkpoint: Checkpoint, name: str, shape: tuple[int, int]
) -> Quantized4bit | Quantized8bit:
    """Read and check the quantised weight `name` of shape (out, in).

    Arrays are views of the file. Raises CheckpointError for a part that is missing or does not fit.
    """
    parts = quantized_parts(checkpoint.names(), name)
    try:
        if f"{name.removesuffix('.weight')}.SCB" in parts:
            return _read_8bit(checkpoint, name, shape)
        return _read_4bit(checkpoint, name, shape, parts)
    except (ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(f"{checkpoint.folder}: tensor {name!r}: bad quantisation: {error}") from None


def _read_8bit(checkpoint: Checkpoint, name: str, shape: tuple[int, int]) -> Quantized8bit:
    module = name.removesuffix(".weight")
    codes = _array(checkpoint, name, "I8", shape)
    absmax = _array(checkpoint, f"{module}.SCB", "F32", (shape[0],))
    order = f"{module}.weight_format"
    if order in checkpoint and _array(checkpoint, order, "U8", ()) != 0:
        raise ConfigError("weight_format is not 0, rows; save it with a bitsandbytes of today")
    return Quantized8bit(codes, absmax)


def _read_4bit(checkpoint: Checkpoint, name: str, shape: tuple[int, int], parts: list[str]) -> Quantized4bit:
    [key] = [part for part in parts if ".quant_state." in part] or [f"{name}.quant_state"]
    if key not in checkpoint:
        raise ConfigError("it has no quant_state")
    quant_type = key.rpartition("__")[2]
    nbytes = checkpoint.info(key).nbytes
    if nbytes > _MAX_STATE_BYTES:
        raise ConfigError(f"its quant_state has {nbytes} bytes; allowed: {_MAX_STATE_BYTES}")
    state = parse_json_object(_array(checkpoint, key, "U8", (nbytes,)).tobytes(), "its quant_state")
    blocksize, dtype = state["blocksize"], state["dtype"]
    if state["quant_type"] != quant_type or quant_type not in CODES:
        raise ConfigError(f"quant_type is {str(state['quant_type'])[:20]!r} in {key.rpartition('.')[2]}")
    if state["shape"] != list(shape):
        raise ConfigError(f"shape is {str(state['shape'])[:40]}; the configuration makes it {list(shape)}")
    if type(blocksize) is not int or blocksize not in BLOCKSIZES:
        raise ConfigError(f"blocksize is {str(blocksize)[:20]}; allowed: {BLOCKSIZES}")
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype is {str(dtype)[:20]!r}; allowed: {', '.join(_DTYPES)}")
    n = math.prod(shape)
    count = -(-n // blocksize)
    packed = checkpoint.tensor(name).reshape(-1).view(np.uint8)
    if packed.size != -(-n // 2):
        raise ConfigError(f"it has {packed.size} bytes; shape {list(shape)} needs {-(-n // 2)}")
    code = _array(checkpoint, f"{name}.quant_map", "F32", (16,))
    if f"{name}.nested_absmax" not in checkpoint:
        absmax = _array(checkpoint, f"{name}.absmax", "F32", (count,))
        return Quantized4bit(packed, absmax, code, quant_type, shape, dtype, blocksize)
    outer, offset = state["nested_blocksize"], state["nested_offset"]
    if type(outer) is not int or not 1 <= outer <= 2**20 or type(offset) not in (int, float):
        raise ConfigError(f"nested_blocksize is {str(outer)[:20]} and nested_offset {str(offset)[:20]}")
    nested = NestedScales(
        _array(checkpoint, f"{name}.nested_absmax", "F32", (-(-count // outer),)),
        _array(checkpoint, f"{name}.nested_quant_map", "F32", (256,)),
        float(np.float32(offset)),
        outer,
    )
    absmax = _array(checkpoint, f"{name}.absmax", "U8", (count,))
    return Quantized4bit(packed, absmax, code, quant_type, shape, dtype, blocksize, nested)


def _array(checkpoint: Checkpoint, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    info = checkpoint.info(name)
    if info.dtype != dtype or info.shape != shape:
        raise ConfigError(f"{name} is {info.dtype} {info.shape}; expected {dtype} {shape}")
    return checkpoint.tensor(name)
