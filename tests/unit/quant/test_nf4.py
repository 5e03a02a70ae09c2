"""NF4 of the native engine: the bits of bitsandbytes' format in the order of memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpt2kit import _native
from gpt2kit.checkpoint.packed import nf4_shapes
from gpt2kit.errors import ConfigError
from gpt2kit.quant import (
    PackedNf4,
    dequantize_4bit,
    dequantize_nf4,
    pack_nf4,
    packed_nf4,
    quantize_4bit,
    unpack_nf4,
)

SHAPES = [(64, 1), (64, 16), (128, 40), (192, 333), (1536, 17)]


def normal(shape: tuple[int, int], seed: int, scale: float = 0.1) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def assert_same(one: PackedNf4, other: PackedNf4) -> None:
    assert one.shape == other.shape and one.parts().keys() == other.parts().keys()
    for suffix, array in one.parts().items():
        assert array.dtype == other.parts()[suffix].dtype
        assert np.array_equal(array, other.parts()[suffix]), suffix


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-44, 1e-38, 0.1, 1e30])
def test_quantising_in_one_gives_the_bits_of_the_definition(shape: tuple[int, int], scale: float) -> None:
    weights = normal(shape, 1, scale)
    weights[:64, 0] = 0
    expected = pack_nf4(quantize_4bit(weights.T, "nf4", double_quant=True))
    assert_same(packed_nf4(weights), expected)
    assert_same(packed_nf4(np.asfortranarray(weights), threads=2), expected)


def test_many_panels_on_several_threads_give_the_same_bits() -> None:
    weights = normal((256, 1100), 2)
    assert_same(
        packed_nf4(weights, threads=3), pack_nf4(quantize_4bit(weights.T, "nf4", double_quant=True), 3)
    )


def test_short_floats_quantise_as_their_values() -> None:
    values = normal((64, 20), 3)
    half = values.astype(np.float16)
    assert_same(packed_nf4(half), packed_nf4(half.astype(np.float32)))
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    assert_same(packed_nf4(bits), packed_nf4((bits.astype(np.uint32) << 16).view(np.float32)))


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_packing_is_undone_and_every_code_is_where_the_format_says(
    shape: tuple[int, int], double_quant: bool
) -> None:
    matrix = quantize_4bit(normal(shape, 4).T, "nf4", double_quant=double_quant)
    packed = pack_nf4(matrix)
    assert {suffix: array.shape for suffix, array in packed.parts().items()}.items() <= nf4_shapes(
        shape
    ).items()
    assert (packed.nested_absmax is not None) == double_quant
    back = unpack_nf4(packed)
    assert np.array_equal(back.packed, matrix.packed) and np.array_equal(back.absmax, matrix.absmax)
    assert np.array_equal(dequantize_nf4(packed), dequantize_4bit(matrix).T)
    rng = np.random.default_rng(5)
    for i, o in zip(rng.integers(0, shape[0], 20), rng.integers(0, shape[1], 20), strict=True):
        byte = packed.codes[o // 16, i // 64, i % 64 // 8, o % 16, i % 4]
        place = o * shape[0] + i
        assert byte >> i % 8 // 4 * 4 & 15 == matrix.packed[place // 2] >> (4 - place % 2 * 4) & 15
        assert packed.absmax[o // 16, i // 64, o % 16] == matrix.absmax[place // 64]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_without_a_scale_are_refused(value: float) -> None:
    weights = normal((128, 5), 6)
    weights[68, 2] = value
    with pytest.raises(ConfigError, match="not finite"):
        packed_nf4(weights)


def test_what_is_not_the_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="has 65 inputs; NF4 needs a multiple of 64"):
        packed_nf4(normal((65, 5), 7))
    weights = normal((5, 128), 7)
    matrix = quantize_4bit(weights, "nf4", double_quant=True)
    assert matrix.nested is not None
    for other, message in [
        (quantize_4bit(weights[:, :100], "nf4"), "has 100 inputs"),
        (quantize_4bit(weights, "nf4", blocksize=128), "blocks are of 128 weights"),
        (quantize_4bit(weights, "fp4"), "numbers are not those of NF4"),
        (replace(matrix, nested=replace(matrix.nested, blocksize=128)), "double quantisation"),
        (replace(matrix, nested=replace(matrix.nested, code=matrix.nested.code * 2)), "double quantisation"),
        (
            replace(matrix, nested=replace(matrix.nested, absmax=np.array([np.inf], np.float32))),
            "scales are not finite",
        ),
        (replace(matrix, absmax=np.full(10, np.nan, np.float32), nested=None), "scales are not finite"),
    ]:
        with pytest.raises(ConfigError, match=message):
            pack_nf4(other)


def test_the_core_refuses_what_it_cannot_read() -> None:
    with pytest.raises(TypeError):
        _native.pack_nf4(np.zeros((64, 2)), 1)
    for weights, threads in [(np.zeros(64), 1), (np.zeros((64, 2)), 0), (np.zeros((63, 2)), 1)]:
        with pytest.raises(ValueError, match=r"matrix|threads|inputs"):
            _native.pack_nf4(weights.astype(np.float32), threads)
    for count, inputs, outputs, threads in [(63, 64, 2, 1), (64, 63, 2, 1), (0, 64, 0, 1), (64, 64, 2, 0)]:
        with pytest.raises(ValueError, match=r"no codes|inputs|threads"):
            _native.repack_nf4(np.zeros(count, np.uint8), inputs, outputs, threads)
