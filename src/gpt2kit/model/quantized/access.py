"""What a model knows of its quantisation: whether it has one, what it may not become, and the way back."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError

if TYPE_CHECKING:
    from gpt2kit.model.quantized.quantizer import Quantizer


class QuantizedAccess(nn.Module):
    """The part of a model that its quantisation concerns; hf_quantizer is None in one that has none."""

    config: GPT2Config
    hf_quantizer: "Quantizer | None" = None

    @property
    def is_quantized(self) -> bool:
        return self.hf_quantizer is not None

    @property
    def quantization_method(self) -> str | None:
        """ "bitsandbytes", or None."""
        return None if self.hf_quantizer is None else self.hf_quantizer.quantization_config.quant_method

    @property
    def is_loaded_in_8bit(self) -> bool:
        return self.hf_quantizer is not None and self.hf_quantizer.quantization_config.load_in_8bit

    @property
    def is_loaded_in_4bit(self) -> bool:
        return self.hf_quantizer is not None and self.hf_quantizer.quantization_config.load_in_4bit

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights that are not quantised."""
        return next(parameter.dtype for parameter in self.parameters() if parameter.is_floating_point())

    def dequantize(self, dtype: torch.dtype | None = None) -> Any:
        """Turn quantised weights back into plain ones, in dtype or the model's; give the model.

        Raises ConfigError for a model that is not quantised.
        """
        if self.hf_quantizer is None:
            raise ConfigError("You need to first quantize your model in order to dequantize it")
        self.hf_quantizer.dequantize(self, dtype)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move the model; a quantised one keeps its dtype and raises ConfigError for another."""
        casts = any(isinstance(argument, (torch.dtype, Tensor)) for argument in [*args, *kwargs.values()])
        if self.is_quantized and casts:
            raise ConfigError(
                "You cannot cast a bitsandbytes model in a new `dtype`. Make sure to load the model using "
                "`from_pretrained` using the desired `dtype` by passing the correct `dtype` argument."
            )
        return super().to(*args, **kwargs)

    def half(self) -> Any:
        return self._cast("half")

    def float(self) -> Any:
        return self._cast("float")

    def double(self) -> Any:
        return self._cast("double")

    def bfloat16(self) -> Any:
        return self._cast("bfloat16")

    def _cast(self, name: str) -> Any:
        if self.is_quantized:
            raise ConfigError(
                f"`.{name}()` is not supported for quantized model. Please use the model as it is, since the "
                "model has already been casted to the correct `dtype`."
            )
        return getattr(super(), name)()
