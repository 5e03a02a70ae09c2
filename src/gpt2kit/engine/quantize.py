"""Which weights of a model the native engine holds in 8 bits, and making them so while a model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpt2kit.checkpoint import BFloat16Array
from gpt2kit.checkpoint.names import LM_HEAD, WTE, is_conv1d
from gpt2kit.errors import ConfigError, EngineError
from gpt2kit.quant.int8 import PackedInt8, packed_int8

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpt2kit.checkpoint import Checkpoint

QUANTS = ("int8",)


def check_quant(quant: str | None) -> None:
    """Raise EngineError for a quant that is none."""
    if quant is not None and quant not in QUANTS:
        raise EngineError(f"quant is {quant!r}; it must be None or one of {', '.join(map(repr, QUANTS))}")


def is_matrix(name: str) -> bool:
    """Tell whether a weight, by canonical name, is a matrix that is multiplied by: the rest keeps its format."""
    return name in (WTE, LM_HEAD) or is_conv1d(name)


def quantized_weights(checkpoint: Checkpoint, names: list[str]) -> dict[str, Any]:
    """Give the weights for the native engine, each matrix as PackedInt8. Raises EngineError."""
    weights: dict[str, NDArray[Any] | BFloat16Array | PackedInt8] = {}
    for name in names:
        if not is_matrix(name):
            weights[name] = checkpoint.weights(name)
            continue
        values = checkpoint.float32(name)
        try:
            weights[name] = packed_int8(values.T if name in (WTE, LM_HEAD) else values)
        except ConfigError as error:
            raise EngineError(f"{name}: {error}; use quant=None") from None
        checkpoint.release(name)
    return weights
