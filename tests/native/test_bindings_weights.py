"""pack_int8 of the core refuses arguments that it cannot read."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2kit import _native

MATRIX = np.zeros((3, 5), np.float32)


@pytest.mark.parametrize(
    "weights", [MATRIX.astype(np.float64), MATRIX.astype(np.int32), MATRIX[:, ::2], None, [[1.0]]]
)
def test_other_arrays_are_refused(weights: object) -> None:
    with pytest.raises(TypeError):
        _native.pack_int8(weights, False, 1)


@pytest.mark.parametrize(("weights", "threads"), [(MATRIX[0], 1), (MATRIX, 0), (MATRIX, 1025)])
def test_other_shapes_and_numbers_of_threads_are_refused(weights: np.ndarray, threads: int) -> None:
    with pytest.raises(ValueError, match=r"matrix|threads"):
        _native.pack_int8(weights, False, threads)


def test_matrices_without_weights_have_no_panels() -> None:
    codes, scales = _native.pack_int8(np.zeros((0, 5), np.float32), False, 1)
    assert codes.size == scales.size == 0


def test_weights_at_odd_addresses_are_read() -> None:
    values = np.arange(64 * 16, dtype=np.float32).reshape(64, 16)
    raw = np.zeros(values.nbytes + 1, np.uint8)
    raw[1:] = values.view(np.uint8).reshape(-1)
    odd = raw[1:].view(np.float32).reshape(64, 16)
    assert not odd.flags.aligned
    for got, expected in zip(
        _native.pack_int8(odd, True, 1), _native.pack_int8(values, True, 1), strict=True
    ):
        assert np.array_equal(got, expected)
