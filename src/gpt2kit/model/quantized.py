"""Linear layers whose weights are in 8 or 4 bits: the modules Linear4bit and Linear8bit.

They stand where nn.Linear or Conv1D stood; the weight is held (out, in), as bitsandbytes holds it. On the CPU the
products are ours: a panel of rows is turned into float32, multiplied and forgotten, so that no matrix is ever there
in full. On other devices they are bitsandbytes' where it is installed, and otherwise ours too.

I in_features, O out_features.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2kit.checkpoint.names import quantized_parts
from gpt2kit.model import bitsandbytes_products as bitsandbytes
from gpt2kit.quant import NestedScales, Quantized4bit, Quantized8bit
from gpt2kit.quant.eight_bit import PER_STEP
from gpt2kit.quant.stored import as_storage, read_quantized, stored_parts

# Weights turned into float32 at a time on the CPU: a panel stays in the second-level cache.
_PANEL = 2**18
# An integer product of two rows is worth SCB_a * SCB_b / 127^2; bitsandbytes rounds the constant so.
_PER_PRODUCT = 6.200124e-05


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
        for start, stop in self._panels():
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
                destination[name] = _tensor(array, self.weight.device)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Take a quantised weight with all its parts, which are no parameters that torch knows of."""
        name = f"{prefix}weight"
        parts = {part: state_dict.pop(part) for part in quantized_parts(list(state_dict), name)}
        if name in state_dict and not self.is_float:
            parts[name] = state_dict[name]
            arrays = {part: _array(_bits(tensor)) for part, tensor in parts.items()}
            shape = (self.out_features, self.in_features)
            self.set_weight(read_quantized(arrays, name, shape, "state_dict"), self.weight.device)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _panels(self) -> Iterator[tuple[int, int]]:
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


class Linear4bit(QuantizedLinear):
    """y = x W^T + b with W in blocks of 4 bits.

    weight: the packed bytes as a column, in the storage dtype; scales are attributes, which move with the module
    but are no buffers, so that bytes are counted as Transformers counts them.
    compute_dtype: of the product; on the CPU it is float32, which costs no time there and loses nothing.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        is_conv1d: bool,
        *,
        compute_dtype: torch.dtype,
        quant_storage: torch.dtype,
    ) -> None:
        super().__init__(in_features, out_features, bias, is_conv1d)
        self.compute_dtype, self.quant_storage = compute_dtype, quant_storage
        self.weight = nn.Parameter(torch.empty(0, dtype=torch.uint8, device="meta"), requires_grad=False)
        self.quant_type = ""
        self.quant_dtype = "float32"
        self.blocksize = 0
        self.offset = 0.0
        self.nested_blocksize = 0
        self.absmax = self.code = torch.empty(0)
        self.nested_absmax: Tensor | None = None
        self.nested_code: Tensor | None = None
        self._pairs: Tensor | None = None

    def set_weight(self, weight: Quantized4bit, device: torch.device) -> None:
        """Take a quantised weight of shape (O, I); arrays are copied."""
        column = as_storage(np.array(weight.packed), self._storage())
        data = torch.from_numpy(column.view(np.uint8)).view(self.quant_storage)
        self.weight = nn.Parameter(data.to(device), requires_grad=False)
        self.quant_type, self.quant_dtype, self.blocksize = weight.quant_type, weight.dtype, weight.blocksize
        self.absmax, self.code = _tensor(weight.absmax, device), _tensor(weight.code, device)
        self.nested_absmax = self.nested_code = None
        if weight.nested is not None:
            self.nested_absmax = _tensor(weight.nested.absmax, device)
            self.nested_code = _tensor(weight.nested.code, device)
            self.offset, self.nested_blocksize = weight.nested.offset, weight.nested.blocksize
        self._pairs = None

    def stored(self) -> Quantized4bit:
        nested = None
        if self.nested_absmax is not None and self.nested_code is not None:
            nested = NestedScales(
                _array(self.nested_absmax), _array(self.nested_code), self.offset, self.nested_blocksize
            )
        return Quantized4bit(
            _array(self.weight.detach().view(torch.uint8)).reshape(-1),
            _array(self.absmax),
            _array(self.code),
            self.quant_type,
            (self.out_features, self.in_features),
            self.quant_dtype,
            self.blocksize,
            nested,
        )

    def stored_parts(self, name: str) -> dict[str, NDArray[Any]]:
        return stored_parts(name, self.stored(), self._storage())

    def _storage(self) -> str:
        """The numpy dtype of the packed weight."""
        name = str(self.quant_storage).removeprefix("torch.")
        return "uint16" if name == "bfloat16" else name

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """See QuantizedLinear; start must be a multiple of _row_unit()."""
        first, end = start * self.in_features, stop * self.in_features
        packed = self.weight.detach().view(torch.uint8).view(-1)[first // 2 : (end + 1) // 2]
        # A byte stands for two numbers: they are fetched together, as the 8 bytes of one float64.
        values = self._byte_pairs().index_select(0, packed.int()).view(torch.float32)[: end - first]
        scales = self.scales(first // self.blocksize, -(-end // self.blocksize))
        full = len(values) // self.blocksize * self.blocksize
        values[:full].view(-1, self.blocksize).mul_(scales[: full // self.blocksize, None])
        values[full:].mul_(scales[full // self.blocksize :])
        return values.view(stop - start, self.in_features).to(dtype)

    def scales(self, start: int, stop: int) -> Tensor:
        """Give the float32 scales of blocks start to stop."""
        stored = self.absmax[start:stop]
        if self.nested_absmax is None or self.nested_code is None:
            return stored
        outer = torch.arange(start, stop, device=stored.device) // self.nested_blocksize
        return self.nested_code[stored.int()] * self.nested_absmax[outer] + self.offset

    def forward(self, x: Tensor) -> Tensor:
        if bitsandbytes.serves(x.device):
            return bitsandbytes.matmul_4bit(self, x)
        compute_dtype = torch.float32 if x.device.type == "cpu" else self.compute_dtype
        y: Tensor = _PanelProduct.apply(x.to(compute_dtype), self)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            y = y + self.bias.to(compute_dtype)
        return y.to(x.dtype)

    def _byte_pairs(self) -> Tensor:
        """Give the two numbers of every byte, float32 (256, 2), as float64 bits (256,)."""
        if self._pairs is None:
            pairs = torch.stack((self.code.repeat_interleave(16), self.code.repeat(16)), dim=1)
            self._pairs = pairs.contiguous().view(torch.float64).view(-1)
        return self._pairs

    def _row_unit(self) -> int:
        return self.blocksize // math.gcd(self.in_features, self.blocksize)

    def _apply(self, fn: Any, recurse: bool = True) -> "Linear4bit":
        """Move the scales with the module; they keep their dtype, and so do packed weights."""
        weight = self.weight
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = self.weight.device
        if self.weight.dtype != weight.dtype:
            self.weight = nn.Parameter(weight.detach().to(device), requires_grad=False)
        self.absmax, self.code, self._pairs = self.absmax.to(device), self.code.to(device), None
        if self.nested_absmax is not None and self.nested_code is not None:
            self.nested_absmax = self.nested_absmax.to(device)
            self.nested_code = self.nested_code.to(device)
        return self


class Linear8bit(QuantizedLinear):
    """y = x W^T + b as LLM.int8(): rows of x and of W in integers, large inputs in 16 bits.

    weight: int8 (O, I), and absmax float32 (O,) its scales; with has_fp16_weights a float weight, which is
    quantised at each forward. In training mode the product is a plain one with the quantised weight.
    threshold: columns of x with a magnitude of at least this are multiplied unquantised; 0.0 for none.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        is_conv1d: bool,
        *,
        threshold: float,
        has_fp16_weights: bool,
    ) -> None:
        super().__init__(in_features, out_features, bias, is_conv1d)
        self.threshold = threshold
        self.is_float = self.has_fp16_weights = has_fp16_weights
        self.weight = nn.Parameter(torch.empty(0, dtype=torch.int8, device="meta"), requires_grad=False)
        self.absmax = torch.empty(0)

    def set_weight(self, weight: Quantized8bit | Tensor, device: torch.device) -> None:
        """Take a quantised weight of shape (O, I), copied, or with has_fp16_weights a float tensor."""
        if isinstance(weight, Tensor):
            self.weight = nn.Parameter(weight.to(device))
            return
        self.weight = nn.Parameter(_tensor(weight.codes, device), requires_grad=False)
        self.absmax = _tensor(weight.absmax, device)

    def stored(self) -> Quantized8bit:
        codes, absmax = self.codes()
        return Quantized8bit(_array(codes), _array(absmax))

    def codes(self) -> tuple[Tensor, Tensor]:
        """Give the weight's integers (O, I) and scales (O,)."""
        if not self.has_fp16_weights:
            return self.weight.detach(), self.absmax
        return _row_codes(self.weight.detach().half())

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        codes, absmax = self.weight.detach()[start:stop], self.absmax[start:stop]
        if self.has_fp16_weights:
            codes, absmax = _row_codes(codes.half())
        return (codes * absmax[:, None] * float(PER_STEP)).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        if self.has_fp16_weights and self.training:
            # The gradient goes to the float weight as if it were the quantised one.
            weight = self.weight + (self.dequantize(self.weight.dtype) - self.weight).detach()
            return F.linear(x, weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))
        if bitsandbytes.serves(x.device):
            return bitsandbytes.matmul_8bit(self, x)
        product = _PanelProduct if self.training else _IntegerProduct
        y: Tensor = product.apply(x, self)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> "Linear8bit":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.absmax = self.absmax.to(self.weight.device)
        return self


class _PanelProduct(torch.autograd.Function):
    """x W^T, a panel of W's rows at a time; for the gradient the panels are made again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: QuantizedLinear) -> Tensor:
        ctx.module = module
        y = x.new_empty(*x.shape[:-1], module.out_features)
        for start, stop in module._panels():
            y[..., start:stop] = F.linear(x, module.rows(start, stop, x.dtype))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _gradient(ctx.module, grads[0]), None


class _IntegerProduct(torch.autograd.Function):
    """x W^T as LLM.int8() computes it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: Linear8bit) -> Tensor:
        ctx.module = module
        rows = x.reshape(-1, module.in_features)
        codes, absmax = module.codes()
        half = rows.half()
        is_large = half.abs() >= module.threshold if module.threshold > 0 else torch.zeros_like(half).bool()
        large = is_large.any(dim=0).nonzero().view(-1)
        row_codes, row_absmax = _row_codes(half.masked_fill(is_large, 0))
        if len(large):
            row_codes[:, large] = 0
        y = torch._int_mm(row_codes, codes.t()) * (row_absmax[:, None] * absmax[None] * _PER_PRODUCT)
        y = y.to(x.dtype)
        if len(large):
            columns = (codes[:, large] * absmax[:, None] * float(PER_STEP)).to(x.dtype)
            y = torch.addmm(y, rows[:, large], columns.t())
        return y.view(*x.shape[:-1], module.out_features)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _gradient(ctx.module, grads[0]), None


def _gradient(module: QuantizedLinear, grad: Tensor) -> Tensor:
    """Give grad W, for grad (..., O)."""
    result = grad.new_zeros(*grad.shape[:-1], module.in_features)
    for start, stop in module._panels():
        result += grad[..., start:stop] @ module.rows(start, stop, grad.dtype)
    return result


def _row_codes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise float16 rows to int8; give the integers and float32 scales, as quant.quantize_8bit does."""
    absmax = rows.abs().amax(dim=1).float()
    codes = torch.round(rows * (127.0 / absmax[:, None]))
    return torch.nan_to_num(codes, nan=0.0).to(torch.int8), absmax


def _tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(array)).to(device)


def _bits(tensor: Tensor) -> Tensor:
    """View bfloat16, which numpy lacks, as uint16."""
    return tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array
