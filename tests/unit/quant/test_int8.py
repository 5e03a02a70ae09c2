"""int8 in numpy: what a weight becomes, and the order of memory."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2kit.errors import ConfigError
from gpt2kit.quant import dequantize_int8, pack_int8, packed_int8, quantize_int8, unpack_int8
from gpt2kit.quant.int8 import packed_shapes

SHAPES = [(1, 1), (64, 16), (65, 17), (3, 40), (200, 33), (128, 1), (63, 1030)]


def normal(shape: tuple[int, int], seed: int, scale: float = 0.1) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_off_by_half_a_step_at_most(shape: tuple[int, int]) -> None:
    weights = normal(shape, 1)
    got = dequantize_int8(quantize_int8(weights))
    for start in range(0, shape[0], 64):
        group = slice(start, start + 64)
        # A step is the largest magnitude / 127, at most 1/128 larger as its bfloat16 is rounded up.
        step = np.abs(weights[group]).max(axis=0).astype(np.float64) / 127 * (1 + 2.0**-7)
        assert (np.abs(got[group].astype(np.float64) - weights[group]) <= step * 0.5001).all()


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-6, 1.0, 1e30])
def test_dequantised_weights_are_exact_products_and_quantise_to_themselves(scale: float) -> None:
    matrix = quantize_int8(normal((130, 20), 2, scale))
    values = dequantize_int8(matrix)
    scales = (matrix.scales.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    exact = matrix.codes * np.repeat(scales, 64, axis=0)[:130]
    assert np.array_equal(values, exact) and np.isfinite(values).all()
    assert np.abs(matrix.codes.astype(int)).max() <= 127


def test_zeros_have_the_scale_zero() -> None:
    weights = normal((128, 3), 3)
    weights[:64, 1] = 0
    matrix = quantize_int8(weights)
    assert matrix.scales[0, 1] == 0 and (matrix.codes[:64, 1] == 0).all() and matrix.scales[1, 1] > 0
    assert (dequantize_int8(matrix)[:64, 1] == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**126, -3e38])
def test_weights_without_a_scale_are_refused(value: float) -> None:
    weights = normal((70, 5), 4)
    weights[68, 2] = value
    with pytest.raises(ConfigError, match="not finite, or too large"):
        quantize_int8(weights)


@pytest.mark.parametrize("shape", SHAPES)
def test_packing_is_undone_and_every_code_is_where_the_format_says(shape: tuple[int, int]) -> None:
    matrix = quantize_int8(normal(shape, 5))
    packed = pack_int8(matrix)
    assert (packed.codes.shape, packed.scales.shape) == packed_shapes(shape)
    back = unpack_int8(packed)
    assert np.array_equal(back.codes, matrix.codes) and np.array_equal(back.scales, matrix.scales)
    rng = np.random.default_rng(6)
    for i, o in zip(rng.integers(0, shape[0], 20), rng.integers(0, shape[1], 20), strict=True):
        code = packed.codes[o // 16, i // 64, i % 64 // 4, o % 16, i % 4]
        assert int(code) - 128 == matrix.codes[i, o]
        assert packed.scales[o // 16, i // 64, o % 16] == matrix.scales[i // 64, o]
    assert packed.codes.flags.c_contiguous and packed.scales.flags.c_contiguous


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-20, 0.1, 1e30])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_native_packer_gives_what_the_definition_says(
    shape: tuple[int, int], scale: float, dtype: str
) -> None:
    values = normal(shape, 7, min(scale, 1e4) if dtype == "float16" else scale)
    given = values
    if dtype == "float16":
        given = values.astype(np.float16)
        values = given.astype(np.float32)
    elif dtype == "bfloat16":
        given = (values.view(np.uint32) >> 16).astype(np.uint16)
        values = (given.astype(np.uint32) << 16).view(np.float32)
    expected = pack_int8(quantize_int8(values))
    for stored in (given, np.asfortranarray(given)):  # the second as embeddings come
        for threads in (1, 3):
            got = packed_int8(stored, threads)
            assert np.array_equal(got.codes, expected.codes) and np.array_equal(got.scales, expected.scales)
            assert got.shape == shape


def test_the_native_packer_rounds_ties_to_even_and_keeps_signs() -> None:
    weights = np.zeros((64, 2), np.float32)
    weights[:, 0] = np.resize([127, -127, 0.5, 1.5, -0.5, -1.5, 2.5, -2.5, 1e-30, -0.0], 64)
    packed = packed_int8(weights)
    assert np.array_equal(unpack_int8(packed).codes[:8, 0], [127, -127, 0, 2, 0, -2, 2, -2])
    assert np.array_equal(packed.codes, pack_int8(quantize_int8(weights)).codes)
    assert packed.codes.ctypes.data % 64 == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**126, -3e38])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_native_packer_refuses_what_the_definition_refuses(value: float, order: str) -> None:
    for where in [(0, 0), (68, 2), (199, 299)]:
        weights = normal((200, 300), 4)
        weights[where] = value
        with pytest.raises(ConfigError, match="not finite, or too large"):
            packed_int8(np.asarray(weights, order=order), 2)


def test_large_matrices_are_packed_by_several_threads_to_the_same_bits() -> None:
    weights = normal((700, 1100), 8)
    expected = pack_int8(quantize_int8(weights))
    for stored in (weights, np.asfortranarray(weights)):
        got = packed_int8(stored, 4)
        assert np.array_equal(got.codes, expected.codes) and np.array_equal(got.scales, expected.scales)
    assert packed_int8(weights).nbytes < 1.15 * weights.size
