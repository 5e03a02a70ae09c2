"""pack_int8 of the core refuses arguments that it cannot read."""

from __future__ import annotations

import mmap
import resource
import time
from pathlib import Path

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


def all_upper_halves() -> np.ndarray:
    """Every bfloat16 with lower halves around a tie, as float32."""
    upper = np.arange(2**16, dtype=np.uint32) << 16
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    return (upper[:, None] | lower).view(np.float32)


def test_rounding_to_bfloat16_is_to_nearest_with_ties_to_even() -> None:
    torch = pytest.importorskip("torch")
    values = all_upper_halves()
    got = _native.round_to_bfloat16(values)
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    is_nan = np.isnan(values)
    assert got.shape == values.shape and np.array_equal(got[~is_nan], expected[~is_nan])
    # Of NaNs the sign and the upper bits stay, and the one that makes them quiet is set.
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    assert np.array_equal(got[is_nan], bits[is_nan] | 0x40)


def test_widening_is_exact() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    assert np.array_equal(_native.widen(bits).view(np.uint32), bits.astype(np.uint32) << 16)
    halves = bits.view(np.float16)
    assert np.array_equal(_native.widen(halves), halves.astype(np.float32), equal_nan=True)
    assert np.array_equal(_native.widen(np.zeros((0, 3), np.float16)), np.zeros((0, 3), np.float32))


@pytest.mark.parametrize("function", [_native.widen, _native.round_to_bfloat16])
def test_conversions_refuse_other_arrays(function: object) -> None:
    for values in (MATRIX.astype(np.float64), MATRIX[:, ::2], [1.0], None):
        with pytest.raises(TypeError):
            function(values)
    with pytest.raises(TypeError):
        _native.round_to_bfloat16(MATRIX.astype(np.float16))


def test_reading_ahead_maps_the_pages_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 2**16)  # 16 MiB, now in the page cache
    with open(path, "rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _native.prefault(memoryview(mapping)[5:])
    _native.prefault(memoryview(b""))
    for _ in range(100):
        smaps = Path("/proc/self/smaps").read_text()
        resident = [entry for entry in smaps.split("VmFlags") if str(path) in entry]
        rss_kb = int(resident[0].split("Rss:")[1].split()[0]) if resident else 0
        if rss_kb >= 16 * 1024:
            break
        time.sleep(0.05)
    assert rss_kb >= 16 * 1024 or resource.getpagesize() != 4096
    assert mapping[-1] == 255
    mapping.close()
