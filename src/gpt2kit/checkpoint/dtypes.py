"""Number formats of weight files as numpy arrays. bfloat16, which numpy lacks, is held as uint16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt2kit import _native
from gpt2kit.errors import CheckpointError

# Imported where it is used: a packed folder is loaded and run without it.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Every format that a weights file may use for anything, and its size. Formats below one byte are left out.
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip

# The formats of weights, by numpy's names (dtype.str) of what a view of each holds.
WEIGHT_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
# The formats of quantised weights and their parts too.
STORED_DTYPES = {**WEIGHT_DTYPES, "F64": "<f8", "U8": "|u1", "I8": "|i1"}
# Those that memoryview.cast knows, in every version of Python.
BUFFER_FORMATS = {"F32": "f", "BF16": "H", "U8": "B"}
# The names of config.dtype.
CONFIG_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


# What names the formats in options: "auto" keeps what is stored.
DTYPE_OPTIONS = ("auto", *CONFIG_DTYPES.values())


@dataclass(frozen=True)
class BFloat16Array:
    """Weights in bfloat16, any shape, as the bits of each value: the upper half of a float32."""

    bits: NDArray[np.uint16] | memoryview

    def __post_init__(self) -> None:
        held = self.bits.format if isinstance(self.bits, memoryview) else self.bits.dtype
        if held not in ("H", "uint16"):
            raise CheckpointError(f"bits has dtype {held}; the bits of bfloat16 are uint16")


def to_float32(array: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Give the values as float32, any shape; an array that is float32 already is given back as it is.

    `dtype` says what the bits are: "F32", "F16" or "BF16" (bits in uint16). All conversions are exact.
    """
    import numpy as np

    if dtype == "F32":
        return np.asarray(array, dtype=np.float32)
    if dtype in WEIGHT_DTYPES:
        return _native.widen(np.ascontiguousarray(array, WEIGHT_DTYPES[dtype]))
    raise CheckpointError(f"dtype is {dtype!r}; allowed: {', '.join(WEIGHT_DTYPES)}")


def from_float32(array: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Give float32 values in another format: "F32", "F16" (float16) or "BF16" (bits in uint16).

    Rounds to nearest, ties to even, as torch does. Values past float16's range (65504) become infinite.
    """
    import numpy as np

    array = np.asarray(array, dtype=np.float32)
    if dtype == "F32":
        return array
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return array.astype(np.float16)
    if dtype == "BF16":
        return _native.round_to_bfloat16(np.ascontiguousarray(array))
    raise CheckpointError(f"dtype is {dtype!r}; allowed: {', '.join(WEIGHT_DTYPES)}")
