"""Linear4bit: a linear layer whose weight is in blocks of 4 bits. The format is in gpt2kit.quant.

I in_features, O out_features.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gpt2kit.model.quantized import bitsandbytes_products as bitsandbytes
from gpt2kit.model.quantized.linear import PanelProduct, QuantizedLinear, to_array, to_tensor
from gpt2kit.quant import NestedScales, Quantized4bit, stored_parts
from gpt2kit.quant.stored import as_storage


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
        self.weight = nn.Parameter(
            torch.empty(-(-in_features * out_features // 2), 1, dtype=torch.uint8, device="meta"),
            requires_grad=False,
        )
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
        self.absmax, self.code = to_tensor(weight.absmax, device), to_tensor(weight.code, device)
        self.nested_absmax = self.nested_code = None
        if weight.nested is not None:
            self.nested_absmax = to_tensor(weight.nested.absmax, device)
            self.nested_code = to_tensor(weight.nested.code, device)
            self.offset, self.nested_blocksize = weight.nested.offset, weight.nested.blocksize
        self._pairs = None

    def stored(self) -> Quantized4bit:
        nested = None
        if self.nested_absmax is not None and self.nested_code is not None:
            nested = NestedScales(
                to_array(self.nested_absmax), to_array(self.nested_code), self.offset, self.nested_blocksize
            )
        return Quantized4bit(
            to_array(self.weight.detach().view(torch.uint8)).reshape(-1),
            to_array(self.absmax),
            to_array(self.code),
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
        y: Tensor = PanelProduct.apply(x.to(compute_dtype), self)  # type: ignore[no-untyped-call]
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
        packed = self.weight.data
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = self.weight.device
        if self.weight.dtype != packed.dtype:
            self.weight = nn.Parameter(packed.to(device), requires_grad=False)
        self.absmax, self.code, self._pairs = self.absmax.to(device), self.code.to(device), None
        if self.nested_absmax is not None and self.nested_code is not None:
            self.nested_absmax = self.nested_absmax.to(device)
            self.nested_code = self.nested_code.to(device)
        return self
