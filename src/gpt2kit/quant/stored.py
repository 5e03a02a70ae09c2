"""Quantised weights in files: the tensors of one weight, by the ends of their names.

bitsandbytes writes, for a weight `w`, in 4 bits `w` (the packed bytes), `w.absmax`, `w.quant_map`, with double
quantisation `w.nested_absmax` and `w.nested_quant_map`, and `w.quant_state.bitsandbytes__nf4` (or fp4), the rest
as JSON in bytes. In 8 bits, beside `m.weight`, `m.SCB` and `m.weight_format`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    parts[_state_name(name, weights.quant_type)] = text
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
    parts: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, int], where: str
) -> Quantized4bit | Quantized8bit:
    """Check and put together the parts of the weight `name` of shape (out, in), as stored_parts names them.

    parts: arrays by name, the bits of bfloat16 as uint16; they are used where they lie. where: named in errors.
    Raises CheckpointError for a part that is missing or does not fit.
    """
    try:
        if f"{name.removesuffix('.weight')}.SCB" in parts:
            return _read_8bit(parts, name, shape)
        return _read_4bit(parts, name, shape)
    except KeyError as error:
        raise CheckpointError(f"{where}: tensor {name!r} is quantised, but {error} is missing") from None
    except ConfigError as error:
        raise CheckpointError(f"{where}: tensor {name!r}: {error}") from None


def _read_8bit(parts: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, int]) -> Quantized8bit:
    module = name.removesuffix(".weight")
    order = f"{module}.weight_format"
    if order in parts and _array(parts, order, np.uint8, ()) != 0:
        raise ConfigError("weight_format is not 0, rows; save it with a bitsandbytes of today")
    return Quantized8bit(
        _array(parts, name, np.int8, shape), _array(parts, f"{module}.SCB", np.float32, (shape[0],))
    )


def _read_4bit(parts: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, int]) -> Quantized4bit:
    quant_type = next((kind for kind in CODES if _state_name(name, kind) in parts), "nf4")
    text = parts[_state_name(name, quant_type)]
    if text.dtype != np.uint8 or text.nbytes > _MAX_STATE_BYTES:
        raise ConfigError(f"its quant_state is {text.nbytes} bytes of {text.dtype}")
    state = _State(parse_json_object(text.tobytes(), "its quant_state"))
    state.expect("quant_type", quant_type)
    state.expect("shape", list(shape))
    blocksize, dtype = state.one_of("blocksize", BLOCKSIZES), state.one_of("dtype", _DTYPES)
    n = math.prod(shape)
    count = -(-n // blocksize)
    packed = parts[name].reshape(-1).view(np.uint8)
    if packed.size != -(-n // 2):
        raise ConfigError(f"it has {packed.size} bytes; shape {list(shape)} needs {-(-n // 2)}")
    code = _array(parts, f"{name}.quant_map", np.float32, (16,))
    nested = None
    if f"{name}.nested_absmax" in parts:
        outer = state.one_of("nested_blocksize", range(1, 2**20))
        offset = state.fields.get("nested_offset")
        if not isinstance(offset, (int, float)) or not math.isfinite(offset):
            raise ConfigError(f"its quant_state has the nested_offset {str(offset)[:40]!r}")
        nested = NestedScales(
            _array(parts, f"{name}.nested_absmax", np.float32, (-(-count // outer),)),
            _array(parts, f"{name}.nested_quant_map", np.float32, (256,)),
            float(np.float32(offset)),
            outer,
        )
    absmax = _array(parts, f"{name}.absmax", np.float32 if nested is None else np.uint8, (count,))
    return Quantized4bit(packed, absmax, code, quant_type, shape, dtype, blocksize, nested)


@dataclass(frozen=True)
class _State:
    """What the JSON of a quant_state says, asked for key by key."""

    fields: dict[str, Any]

    def expect(self, key: str, value: Any) -> None:
        if self.fields.get(key) != value:
            raise ConfigError(
                f"its quant_state has the {key} {str(self.fields.get(key))[:40]!r}; expected {value}"
            )

    def one_of(self, key: str, allowed: Any) -> Any:
        value = self.fields.get(key)
        if type(value) not in (int, str) or value not in allowed:
            raise ConfigError(f"its quant_state has the {key} {str(value)[:40]!r}; allowed: {allowed}")
        return value


def _state_name(name: str, quant_type: str) -> str:
    return f"{name}.quant_state.bitsandbytes__{quant_type}"


def _array(parts: Mapping[str, NDArray[Any]], name: str, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    array = parts[name]
    if array.dtype != dtype or array.shape != shape:
        expected = f"{np.dtype(dtype)} {shape}"
        raise ConfigError(f"{name.rpartition('.')[2]} is {array.dtype} {array.shape}; expected {expected}")
    return array
