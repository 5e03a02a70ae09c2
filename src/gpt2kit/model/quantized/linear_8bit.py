"""Linear8bit: a linear layer that multiplies as LLM.int8() does. The format is in gpt2kit.quant.

I in_features, O out_features.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2kit.model.quantized import bitsandbytes_products as bitsandbytes
from gpt2kit.model.quantized.linear import PanelProduct, QuantizedLinear, input_gradient, to_array, to_tensor
from gpt2kit.quant import Quantized8bit
from gpt2kit.quant.eight_bit import PER_STEP

# An integer product of two rows is worth SCB_a * SCB_b / 127^2; bitsandbytes rounds the constant so.
_PER_PRODUCT = 6.200124e-05


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
        self.weight = nn.Parameter(
            torch.empty(out_features, in_features, dtype=torch.int8, device="meta"), requires_grad=False
        )
        self.absmax = torch.empty(0)

    def set_weight(self, weight: Quantized8bit | Tensor, device: torch.device) -> None:
        """Take a quantised weight of shape (O, I), copied, or with has_fp16_weights a float tensor."""
        if isinstance(weight, Tensor):
            self.weight = nn.Parameter(weight.to(device))
            return
        self.weight = nn.Parameter(to_tensor(weight.codes, device), requires_grad=False)
        self.absmax = to_tensor(weight.absmax, device)

    def stored(self) -> Quantized8bit:
        codes, absmax = self.codes()
        return Quantized8bit(to_array(codes), to_array(absmax))

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
        product = PanelProduct if self.training else _IntegerProduct
        y: Tensor = product.apply(x, self)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> "Linear8bit":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.absmax = self.absmax.to(self.weight.device)
        return self


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
        return input_gradient(ctx.module, grads[0]), None


def _row_codes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise float16 rows to int8; give the integers and float32 scales, as quant.quantize_8bit does."""
    absmax = rows.abs().amax(dim=1).float()
    codes = torch.round(rows * (127.0 / absmax[:, None]))
    return torch.nan_to_num(codes, nan=0.0).to(torch.int8), absmax
