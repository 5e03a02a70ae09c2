"""What the native engine computes in: the option `compute` for weights in each format.

A matrix of floats meets activations in float32, or with "bfloat16" rounded to that. A matrix in codes meets integers:
activations rounded to 16 or to 8 bits, in groups of 64 with a scale each.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Literal

from gpt2kit.errors import EngineError

Compute = Literal["auto", "float32", "bfloat16", "int16", "int8"]
COMPUTE_OPTIONS = ("auto", "float32", "bfloat16", "int16", "int8")


@dataclass(frozen=True)
class Computing:
    """What meets the matrices.

    name: "auto" where the two phases differ, else what they have in common. floats: "float32" or "bfloat16", for
    matrices of floats. prefill, decode: "int16" or "int8", for matrices in codes.
    """

    name: Compute
    floats: str = "float32"
    prefill: str = "int16"
    decode: str = "int16"


def computing(compute: Compute | None, formats: Set[str]) -> Computing:
    """Say what matrices in these formats are multiplied by.

    compute: None is "auto": float32 for matrices of floats; for those in codes 8 bits in prompts and 16 in what is
        generated. formats: of the matrices, "float" and "int8".
    Raises EngineError for a compute that is none, or that these formats leave nothing to do for.
    """
    codes = sorted(formats - {"float"})
    if compute is None or compute == "auto":
        return Computing("auto", prefill="int8") if codes else Computing("float32")
    if compute not in COMPUTE_OPTIONS:
        raise EngineError(f"compute is {compute!r}; it must be one of {', '.join(COMPUTE_OPTIONS)}")
    if compute in ("int16", "int8"):
        if not codes:
            raise EngineError(
                f"compute is {compute!r}, but no matrix is quantised; use quant='int8', or 'float32' or 'bfloat16'"
            )
        return Computing(compute, prefill=compute, decode=compute)
    if codes:
        raise EngineError(
            f"compute is {compute!r}, but matrices are in {' and '.join(codes)}; it must be 'auto', 'int16' or 'int8'"
        )
    return Computing(compute, floats=compute)
