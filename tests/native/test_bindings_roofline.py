"""The measurements of the machine's limits: what they take, what they refuse, and that they are rates."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2kit import _native


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("sizes", [[1], [0, 5], [63, 64, 65, 129], [100_001, 0, 3]])
def test_ranges_of_any_length_are_read(threads: int, sizes: list[int]) -> None:
    rates = _native.read_bytes_per_s([np.ones(size, np.uint8) for size in sizes], threads, 2)
    assert len(rates) == 2 and all(0 < rate < 1e13 for rate in rates)


def test_arrays_of_any_type_at_any_address_are_read() -> None:
    odd = np.ones(1003, np.uint8)[1:]
    assert _native.read_bytes_per_s([odd, np.ones((3, 5), np.float16), np.float32(1.0).reshape(())], 2, 1)


def test_every_machine_multiplies_floats() -> None:
    rates = _native.operations_per_s("float32", 1, 2)
    assert len(rates) == 2 and all(1e7 < rate < 1e15 for rate in rates)
    for kind in ("bfloat16", "int8"):
        assert len(_native.operations_per_s(kind, 1, 1)) in (0, 1)


@pytest.mark.parametrize(("threads", "passes"), [(0, 1), (-1, 1), (1025, 1), (1, 0), (1, 1001)])
def test_counts_out_of_range_are_refused(threads: int, passes: int) -> None:
    with pytest.raises(ValueError, match="it must be from 1 to"):
        _native.read_bytes_per_s([np.ones(8)], threads, passes)
    with pytest.raises(ValueError, match="it must be from 1 to"):
        _native.operations_per_s("float32", threads, passes)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="hold no bytes"):
        _native.read_bytes_per_s([], 1, 1)
    with pytest.raises(ValueError, match="must be 'float32', 'bfloat16' or 'int8'"):
        _native.operations_per_s("float64", 1, 1)
    with pytest.raises(TypeError):
        _native.read_bytes_per_s(["text"], 1, 1)
