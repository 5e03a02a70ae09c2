"""Quantised weights as the tensors of a file, and files that lie about them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpt2kit.errors import CheckpointError, ConfigError
from gpt2kit.quant import quantize_4bit, quantize_8bit, read_quantized, stored_parts

NAME = "h.0.mlp.c_fc.weight"
STATE = f"{NAME}.quant_state.bitsandbytes__nf4"
SHAPE = (12, 16)
Parts = dict[str, Any]


def weights() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def parts_4bit(double_quant: bool = True) -> Parts:
    return stored_parts(NAME, quantize_4bit(weights(), "nf4", double_quant=double_quant))


def parts_8bit() -> Parts:
    return stored_parts(NAME, quantize_8bit(weights()))


def state(parts: Parts) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(bytes(parts[STATE]))
    return content


def with_state(**changes: Any) -> Callable[[], Parts]:
    def make() -> Parts:
        parts = parts_4bit()
        text = json.dumps({**state(parts), **changes}).encode()
        return {**parts, STATE: np.frombuffer(text, np.uint8)}

    return make


def test_names_in_4_bits() -> None:
    assert [name.removeprefix(NAME) for name in parts_4bit()] == [
        "",
        ".absmax",
        ".quant_map",
        ".nested_absmax",
        ".nested_quant_map",
        ".quant_state.bitsandbytes__nf4",
    ]
    assert state(parts_4bit(double_quant=False)) == {
        "quant_type": "nf4",
        "blocksize": 64,
        "dtype": "float32",
        "shape": [12, 16],
    }


def test_names_in_8_bits() -> None:
    assert list(parts_8bit()) == [NAME, "h.0.mlp.c_fc.SCB", "h.0.mlp.c_fc.weight_format"]


@pytest.mark.parametrize("make", [parts_4bit, lambda: parts_4bit(False), parts_8bit])
def test_reading_gives_what_was_stored(make: Callable[[], Parts]) -> None:
    parts = make()
    again = stored_parts(NAME, read_quantized(parts, NAME, SHAPE, "here"))
    assert again.keys() == parts.keys()
    for name, array in parts.items():
        assert (again[name].dtype, again[name].tolist()) == (array.dtype, array.tolist())


@pytest.mark.parametrize("storage", ["uint8", "int8", "uint16", "float16", "float32", "float64"])
def test_storage_is_only_a_view(storage: str) -> None:
    quantized = quantize_4bit(weights(), "nf4")
    parts = stored_parts(NAME, quantized, storage)
    assert parts[NAME].dtype == storage
    assert parts[NAME].shape == (96 // np.dtype(storage).itemsize, 1)
    back = read_quantized(parts, NAME, SHAPE, "here")
    assert back.packed.tolist() == quantized.packed.tolist()


def test_storage_that_bytes_do_not_fill_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 packed bytes do not fill whole items of float32"):
        stored_parts(NAME, quantize_4bit(np.ones((2, 3), np.float32), "nf4"), "float32")


def without(name: str) -> Callable[[], Parts]:
    return lambda: {key: value for key, value in parts_4bit().items() if key != name}


def with_part(name: str, value: np.ndarray, make: Callable[[], Parts] = parts_4bit) -> Callable[[], Parts]:
    return lambda: {**make(), name: value}


BAD: dict[str, tuple[Callable[[], Parts], str]] = {
    "no state": (without(STATE), "quant_state.bitsandbytes__nf4' is missing"),
    "no absmax": (without(f"{NAME}.absmax"), "absmax' is missing"),
    "no map": (without(f"{NAME}.quant_map"), "quant_map' is missing"),
    "no nested map": (without(f"{NAME}.nested_quant_map"), "nested_quant_map' is missing"),
    "bytes in nested scales": (without(f"{NAME}.nested_absmax"), "absmax is uint8"),
    "state of no JSON": (with_part(STATE, np.frombuffer(b"{", np.uint8)), "not JSON"),
    "state that is long": (with_part(STATE, np.full(5000, 32, np.uint8)), "5000 bytes"),
    "state of floats": (with_part(STATE, np.zeros(4, np.float32)), "bytes of float32"),
    "other shape": (with_state(shape=[16, 12]), r"the shape '\[16, 12\]'; expected \[12, 16\]"),
    "other type": (with_state(quant_type="fp4"), "the quant_type 'fp4'; expected nf4"),
    "blocks of 3": (with_state(blocksize=3), "the blocksize '3'"),
    "blocks of a list": (with_state(blocksize=[64]), "the blocksize"),
    "dtype that is none": (with_state(dtype="complex64"), "the dtype 'complex64'"),
    "no outer blocks": (with_state(nested_blocksize=0), "the nested_blocksize '0'"),
    "offset that is text": (with_state(nested_offset="1"), "the nested_offset '1'"),
    "offset that is infinite": (with_state(nested_offset=float("inf")), "the nested_offset|not JSON"),
    "too few bytes": (with_part(NAME, np.zeros((95, 1), np.uint8)), r"95 bytes; shape \[12, 16\] needs 96"),
    "too few scales": (with_part(f"{NAME}.absmax", np.zeros(2, np.uint8)), r"expected uint8 \(3,\)"),
    "short map": (with_part(f"{NAME}.quant_map", np.zeros(15, np.float32)), r"expected float32 \(16,\)"),
    "8 bits: shape": (with_part(NAME, np.zeros((16, 12), np.int8), parts_8bit), r"expected int8 \(12, 16\)"),
    "8 bits: dtype": (with_part(NAME, np.zeros(SHAPE, np.uint8), parts_8bit), "weight is uint8"),
    "8 bits: scales": (
        with_part("h.0.mlp.c_fc.SCB", np.zeros(3, np.float32), parts_8bit),
        r"expected float32 \(12,\)",
    ),
    "8 bits: order": (
        with_part("h.0.mlp.c_fc.weight_format", np.ones((), np.uint8), parts_8bit),
        "weight_format is not 0",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_parts_that_do_not_fit_are_refused(case: str) -> None:
    make, reason = BAD[case]
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_quantized(make(), NAME, SHAPE, "folder")
    assert str(caught.value).startswith(f"folder: tensor {NAME!r}")
