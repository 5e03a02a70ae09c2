"""The 4-bit and 8-bit formats by their definitions; tests/parity compares them with bitsandbytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2kit.errors import ConfigError
from gpt2kit.quant import (
    CODES,
    dequantize_4bit,
    dequantize_8bit,
    dynamic_map,
    quantize_4bit,
    quantize_8bit,
    scales_4bit,
)
from gpt2kit.quant.four_bit import quantize_blockwise

shapes = st.tuples(st.integers(1, 20), st.integers(1, 90))
quant_types = st.sampled_from(["nf4", "fp4"])


def normal(shape: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_known_bytes() -> None:
    """Worked out by hand: the block's scale is 2, so the weights are 1, -1, 0 and 0.5 of it."""
    quantized = quantize_4bit(np.array([[2.0, -2.0], [0.0, 1.0]], np.float32), "nf4")
    assert quantized.packed.tolist() == [0xF0, 0x7C]
    assert quantized.absmax.tolist() == [2.0]
    assert dequantize_4bit(quantized)[1, 1] == np.float32(0.44070982933044434) * 2


def test_known_bytes_of_fp4() -> None:
    quantized = quantize_4bit(np.array([[12.0, -8.0, 6.0, -0.7]], np.float32), "fp4")
    assert quantized.packed.tolist() == [0x3A, 0x59]
    assert dequantize_4bit(quantized).tolist() == [[12.0, -8.0, 6.0, -0.0625]]


@pytest.mark.parametrize("quant_type", CODES)
def test_code_books_reach_from_minus_one_to_one(quant_type: str) -> None:
    code = CODES[quant_type]
    assert code.shape == (16,)
    assert (code.min(), code.max()) == (-1, 1)
    assert 0 in code


def test_dynamic_map_is_ascending_and_has_all_numbers_once() -> None:
    code = dynamic_map()
    assert code.shape == (256,)
    assert (np.diff(code) > 0).all()
    assert code[-1] == 1
    assert 0 in code


@settings(deadline=None, max_examples=40)
@given(shapes, quant_types, st.booleans(), st.integers(0, 99))
def test_each_weight_becomes_a_nearest_number(
    shape: tuple[int, int], quant_type: str, double_quant: bool, seed: int
) -> None:
    weights = normal(shape, seed)
    quantized = quantize_4bit(weights, quant_type, double_quant=double_quant)
    values = dequantize_4bit(quantized)
    scales = np.repeat(quantize_4bit(weights, quant_type).absmax, 64)[: weights.size]
    nearest = np.abs(weights.reshape(-1, 1) / scales[:, None] - CODES[quant_type]).min(axis=1) * scales
    exact = np.abs(dequantize_4bit(quantize_4bit(weights, quant_type)) - weights).reshape(-1)
    np.testing.assert_allclose(exact, nearest, atol=1e-6)
    # The scales' own error: at most a 65,536th part and half a step of the dynamic map, below one in 100.
    assert np.abs(values - weights).max() <= exact.max() + 0.02 * scales.max()


@settings(deadline=None, max_examples=40)
@given(shapes, quant_types, st.integers(0, 99))
def test_what_was_quantised_quantises_to_itself(shape: tuple[int, int], quant_type: str, seed: int) -> None:
    once = quantize_4bit(normal(shape, seed), quant_type)
    twice = quantize_4bit(dequantize_4bit(once), quant_type)
    assert dequantize_4bit(twice).tolist() == dequantize_4bit(once).tolist()


@settings(deadline=None, max_examples=40)
@given(shapes, st.integers(0, 99))
def test_8_bits_are_within_half_a_step(shape: tuple[int, int], seed: int) -> None:
    weights = normal(shape, seed)
    quantized = quantize_8bit(weights)
    step = quantized.absmax[:, None] / 127
    error = np.abs(dequantize_8bit(quantized) - weights)
    assert (error <= 0.501 * step + 1e-3 * np.abs(weights)).all()  # and float16's rounding


def test_double_quantisation_holds_scales_in_a_byte_each() -> None:
    quantized = quantize_4bit(normal((64, 300), 0), "nf4", double_quant=True)
    assert quantized.absmax.dtype == np.uint8
    assert quantized.absmax.shape == (300,)
    assert quantized.nested is not None
    assert quantized.nested.absmax.shape == (2,)  # blocks of 256 scales
    exact = quantize_4bit(normal((64, 300), 0), "nf4").absmax
    np.testing.assert_allclose(scales_4bit(quantized), exact, atol=0.01 * exact.max())


@pytest.mark.parametrize("quant_type", CODES)
def test_zeros_stay_zeros(quant_type: str) -> None:
    weights = np.zeros((3, 50), np.float32)
    assert not dequantize_4bit(quantize_4bit(weights, quant_type)).any()
    assert not dequantize_8bit(quantize_8bit(weights)).any()


def test_blocks_do_not_care_where_rows_end() -> None:
    weights = normal((32, 48), 1)
    flat = quantize_4bit(weights.reshape(1, -1), "nf4")
    assert quantize_4bit(weights, "nf4").packed.tolist() == flat.packed.tolist()


def test_panels_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = normal((100, 100), 2)
    whole = quantize_4bit(weights, "nf4")
    monkeypatch.setattr("gpt2kit.quant.four_bit._PANEL", 128)
    assert quantize_4bit(weights, "nf4").packed.tolist() == whole.packed.tolist()


def test_one_weight_alone_is_half_a_byte() -> None:
    quantized = quantize_4bit(np.array([[-3.0]], np.float32), "nf4")
    assert quantized.packed.shape == (1,)
    assert dequantize_4bit(quantized).tolist() == [[-3.0]]


def test_float16_weights_need_no_conversion() -> None:
    half = normal((8, 64), 3).astype(np.float16)
    for quantize in (lambda w: quantize_4bit(w, "fp4").packed, lambda w: quantize_8bit(w).codes):
        assert quantize(half).tolist() == quantize(half.astype(np.float32)).tolist()


def test_blockwise_errors_are_small_in_each_decade() -> None:
    values = np.array([1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 0.0], np.float32)
    codes, absmax = quantize_blockwise(values)
    assert absmax.tolist() == [1.0]
    back = dynamic_map()[codes]
    assert np.abs(back - values).max() < 0.006


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"quant_type": "int4"}, "quant_type is 'int4'; allowed: nf4, fp4"),
        ({"quant_type": "nf4", "blocksize": 48}, "blocksize is 48"),
    ],
)
def test_unknown_formats_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        quantize_4bit(np.zeros((2, 2), np.float32), **options)


def test_scales_without_a_mean_are_refused() -> None:
    with pytest.raises(ConfigError, match="not finite"):
        quantize_4bit(np.full((2, 64), np.inf, np.float32), "nf4", double_quant=True)
