"""What linear layers with quantised weights share: rows turned back into floats, and products made of them.

A quantised layer stands where nn.Linear or Conv1D stood; its weight is (out, in), as bitsandbytes holds it. On the
CPU a panel of rows is turned into floats, multiplied and forgotten, so that no matrix is ever there in full.

I in_features, O out_features.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2kit.checkpoint.names import quantized_parts
from gpt2kit.quant import Quantized4bit, Quantized8bit, read_quantized, stored_parts

# Weights turned into floats at a time on the CPU: a panel stays in the second-level cache.
_PANEL = 2**18


class QuantizedLinear(nn.Module):
    """What both kinds share: a bias, float (O,), and a weight that is turned back a few rows at a time."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, bias: bool, is_conv1d: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.is_conv1d = is_conv1d  # of the module that stood here: its weight was (in, out)
        self.is_float = False  # the weight is kept in full and only multiplied in few bits
        empty = nn.Parameter(torch.empty(out_features, device="meta")) if bias else None
        self.register_parameter("bias", empty)

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Give rows start to stop of the weight, (stop - start, I), in dtype."""
        raise NotImplementedError

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Give the weight, (O, I), in dtype."""
        weight = torch.empty(self.out_features, self.in_features, dtype=dtype, device=self.weight.device)
        for start, stop in self.panels():
            weight[start:stop] = self.rows(start, stop, dtype)
        return weight

    def stored(self) -> Quantized4bit | Quantized8bit:
        """Give the weight as arrays; memory is shared on the CPU."""
        raise NotImplementedError

    def set_weight(self, weight: Any, device: torch.device) -> None:
        """Take a weight of shape (O, I): as stored() gives it, or a float tensor where it is kept in full."""
        raise NotImplementedError

    def stored_parts(self, name: str) -> dict[str, NDArray[Any]]:
        """Give the tensors of a file for the weight `name`; bfloat16 as uint16."""
        return stored_parts(name, self.stored())

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_float:
            return
        for name, array in self.stored_parts(f"{prefix}weight").items():
            if name != f"{prefix}weight":
                destination[name] = to_tensor(array, self.weight.device)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Take a quantised weight with all its parts, which are no parameters that torch knows of."""
        name = f"{prefix}weight"
        parts = {part: state_dict.pop(part) for part in quantized_parts(list(state_dict), name)}
        if name in state_dict and not self.is_float:
            parts[name] = state_dict[name]
            arrays = {part: to_array(_bits(tensor)) for part, tensor in parts.items()}
            shape = (self.out_features, self.in_features)
            self.set_weight(read_quantized(arrays, name, shape, "state_dict"), self.weight.device)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def panels(self) -> Iterator[tuple[int, int]]:
        """Cut the rows into panels, each a whole number of blocks."""
        step = self.out_features
        if self.weight.device.type == "cpu":
            unit = self._row_unit()
            step = max(unit, _PANEL // self.in_features // unit * unit)
        for start in range(0, self.out_features, step):
            yield start, min(start + step, self.out_features)

    def _row_unit(self) -> int:
        return 1

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )


class PanelProduct(torch.autograd.Function):
    """x W^T, a panel of W's rows at a time; for the gradient the panels are made again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: QuantizedLinear) -> Tensor:
        ctx.module = module
        y = x.new_empty(*x.shape[:-1], module.out_features)
        for start, stop in module.panels():
            y[..., start:stop] = F.linear(x, module.rows(start, stop, x.dtype))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return input_gradient(ctx.module, grads[0]), None


def input_gradient(module: QuantizedLinear, grad: Tensor) -> Tensor:
    """Give grad W, for grad (..., O)."""
    result = grad.new_zeros(*grad.shape[:-1], module.in_features)
    for start, stop in module.panels():
        result += grad[..., start:stop] @ module.rows(start, stop, grad.dtype)
    return result


def to_tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(array)).to(device)


def _bits(tensor: Tensor) -> Tensor:
    """View bfloat16, which numpy lacks, as uint16."""
    return tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor


def to_array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array
