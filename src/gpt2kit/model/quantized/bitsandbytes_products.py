"""Products with quantised weights on accelerators, by the package bitsandbytes where it is installed.

Not on the CPU. Its kernel there computes in bfloat16 whatever compute dtype was asked for, needs AVX-512 with
bfloat16, undoes double quantisation and forgets it, and misreads matrices whose rows are no whole blocks; importing
the package takes two seconds and can load further code from the hub.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gpt2kit.model.quantized.linear_4bit import Linear4bit
    from gpt2kit.model.quantized.linear_8bit import Linear8bit


def serves(device: torch.device) -> bool:
    """Tell whether bitsandbytes multiplies on this device."""
    return device.type not in ("cpu", "meta") and _serves_type(device.type)


def matmul_4bit(module: "Linear4bit", x: Tensor) -> Tensor:
    """Compute x W^T + b in the module's compute dtype; give it in x's."""
    bitsandbytes = import_module("bitsandbytes")
    bias = None if module.bias is None else module.bias.to(module.compute_dtype)
    state = _quant_state(module, x.device)
    y: Tensor = bitsandbytes.matmul_4bit(
        x.to(module.compute_dtype), module.weight.detach(), quant_state=state, bias=bias
    )
    return y.to(x.dtype)


def matmul_8bit(module: "Linear8bit", x: Tensor) -> Tensor:
    """Compute x W^T + b by LLM.int8()."""
    bitsandbytes = import_module("bitsandbytes")
    state = bitsandbytes.MatmulLtState()
    state.CB, state.SCB = module.codes()
    state.threshold = module.threshold
    state.has_fp16_weights = False
    state.is_training = module.training
    bias = None if module.bias is None else module.bias.to(x.dtype)
    y: Tensor = bitsandbytes.matmul(x, state.CB, bias=bias, state=state)
    return y


def _quant_state(module: "Linear4bit", device: torch.device) -> Any:
    QuantState = import_module("bitsandbytes.functional").QuantState
    nested = None
    if module.nested_absmax is not None:
        nested = QuantState(
            absmax=module.nested_absmax,
            code=module.nested_code,
            blocksize=module.nested_blocksize,
            dtype=torch.float32,
        )
    return QuantState(
        absmax=module.absmax,
        shape=torch.Size((module.out_features, module.in_features)),
        code=module.code,
        blocksize=module.blocksize,
        quant_type=module.quant_type,
        dtype=module.compute_dtype,
        offset=None if nested is None else torch.tensor(module.offset, device=device),
        state2=nested,
    )


@cache
def _serves_type(device_type: str) -> bool:
    if find_spec("bitsandbytes") is None:
        return False
    return device_type in getattr(import_module("bitsandbytes"), "supported_torch_devices", {"cuda"})
