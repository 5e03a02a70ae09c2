"""Quantizer: puts quantised layers into a model, fills them from a checkpoint, and takes them out again.

The layers are in linear_4bit.py and linear_8bit.py, the formats in gpt2kit.quant.
"""

import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gpt2kit.checkpoint import Checkpoint, from_float32, to_float32
from gpt2kit.checkpoint.names import quantized_parts
from gpt2kit.config import BitsAndBytesConfig, GPT2Config
from gpt2kit.config.bitsandbytes import quantization_of
from gpt2kit.config.packed import refuse_packed
from gpt2kit.errors import CheckpointError, ConfigError, ConfigTypeError
from gpt2kit.model.attention import Conv1D
from gpt2kit.model.pretrained.placement import Placement
from gpt2kit.model.quantized.access import QuantizedAccess
from gpt2kit.model.quantized.linear import QuantizedLinear
from gpt2kit.model.quantized.linear_4bit import Linear4bit
from gpt2kit.model.quantized.linear_8bit import Linear8bit
from gpt2kit.quant import Quantized4bit, quantize_4bit, quantize_8bit, read_quantized

_OFF_ACCELERATOR = ("cpu", "disk")
_FORMATS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class Quantizer:
    """What a model's quantization_config asks for. pre_quantized: the files have it done already."""

    is_trainable = True

    def __init__(self, quantization_config: BitsAndBytesConfig, pre_quantized: bool) -> None:
        if not quantization_config.is_quantizable():
            raise ConfigError("quantization_config asks for nothing; set load_in_8bit or load_in_4bit")
        self.quantization_config = quantization_config
        self.pre_quantized = pre_quantized

    def is_serializable(self) -> bool:
        """Tell whether a model in this format can be saved: always."""
        return True

    def put_modules(self, model: QuantizedAccess, device_map: object = None) -> None:
        """Replace the linear layers of a model on the meta device, those of a mapping's accelerators only."""
        if model.dtype not in _FORMATS:
            raise ConfigError(
                f"dtype is {model.dtype}; weights are quantised from float32, float16 or bfloat16"
            )
        skipped = _skipped(model, self.quantization_config)
        if isinstance(device_map, Mapping) and self.quantization_config.llm_int8_enable_fp32_cpu_offload:
            skipped += [
                re.escape(name) for name, place in device_map.items() if str(place) in _OFF_ACCELERATOR
            ]
        for name, module in list(model.named_modules()):
            if (type(module) is nn.Linear or isinstance(module, Conv1D)) and not _is_skipped(name, skipped):
                model.set_submodule(name, self._module(module))
        model.hf_quantizer = self
        model.config.quantization_config = self.quantization_config

    def check_places(self, model: QuantizedAccess, placement: Placement) -> None:
        """Refuse quantised layers on the CPU beside an accelerator, or on disk: accelerate cannot move them."""
        for name, module in model.named_modules():
            if not isinstance(module, QuantizedLinear) or not placement.is_spread:
                continue
            if getattr(placement.place(f"{name}.weight"), "type", "disk") in _OFF_ACCELERATOR:
                raise ConfigError(
                    "Some modules are dispatched on the CPU or the disk. Make sure you have enough GPU RAM to fit "
                    "the quantized model, or give a device_map that names them and set "
                    "llm_int8_enable_fp32_cpu_offload=True to leave them as they are"
                )

    def take_weight(
        self, module: QuantizedLinear, checkpoint: Checkpoint, name: str, dtype: torch.dtype
    ) -> None:
        """Fill a module from the canonical `name` of a checkpoint, on the CPU.

        dtype: what the model's other weights are, to which a float weight is rounded before it is quantised.
        """
        shape = (module.out_features, module.in_features)
        cpu = torch.device("cpu")
        in_16_bits = isinstance(module, Linear8bit) and module.has_fp16_weights
        if self.pre_quantized and not in_16_bits:
            names = [name, *quantized_parts(checkpoint.names(), name)]
            parts = {part: checkpoint.tensor(part) for part in names}
            quantized = read_quantized(parts, name, shape, str(checkpoint.folder))
            if isinstance(module, Linear4bit) != isinstance(quantized, Quantized4bit):
                raise CheckpointError(
                    f"{checkpoint.folder}: tensor {name!r} is not in the bits of its config"
                )
            module.set_weight(quantized, cpu)
            for part in names:
                checkpoint.release(part)
            return
        stored = checkpoint.tensor(name)
        if module.is_conv1d and not self.pre_quantized:
            stored = stored.T
        if stored.shape != shape:
            raise CheckpointError(
                f"{checkpoint.folder}: tensor {name!r} has shape {stored.shape}; it is {shape}"
            )
        weight = _rounded(stored, checkpoint.info(name).dtype, dtype)
        checkpoint.release(name)
        self.quantize(module, weight, dtype)

    def quantize(self, module: QuantizedLinear, weight: NDArray[Any], dtype: torch.dtype) -> None:
        """Fill a module from float32 or float16 values (O, I) that dtype represents."""
        config, cpu = self.quantization_config, torch.device("cpu")
        if isinstance(module, Linear8bit):
            if module.has_fp16_weights:
                module.set_weight(torch.tensor(np.ascontiguousarray(weight)).to(dtype), cpu)
            else:
                module.set_weight(quantize_8bit(weight), cpu)
        elif isinstance(module, Linear4bit):
            quantized = quantize_4bit(
                weight,
                config.bnb_4bit_quant_type,
                double_quant=config.bnb_4bit_use_double_quant,
                dtype=str(dtype).removeprefix("torch."),
                mean=lambda absmax: float(torch.from_numpy(absmax).mean()),
            )
            module.set_weight(quantized, cpu)

    def draw(self, module: QuantizedLinear, dtype: torch.dtype, std: float) -> None:
        """Fill a module, which the file lacks, from N(0, std)."""
        weight = torch.empty(module.out_features, module.in_features).normal_(0.0, std).to(dtype)
        self.quantize(module, weight.float().numpy(), dtype)

    def dequantize(self, model: QuantizedAccess, dtype: torch.dtype | None = None) -> None:
        """Put plain layers back, in dtype or the model's, and forget the quantisation."""
        dtype = model.dtype if dtype is None else dtype
        for name, module in list(model.named_modules()):
            if isinstance(module, QuantizedLinear):
                model.set_submodule(name, _plain(module, dtype))
        model.hf_quantizer = None
        del model.config.quantization_config
        model.to(dtype)

    def _module(self, module: nn.Module) -> QuantizedLinear:
        config = self.quantization_config
        is_conv1d = isinstance(module, Conv1D)
        assert isinstance(module.weight, Tensor)
        out_features, in_features = module.weight.shape[::-1] if is_conv1d else module.weight.shape
        bias = module.bias
        new: QuantizedLinear
        if config.load_in_8bit:
            new = Linear8bit(
                in_features,
                out_features,
                bias is not None,
                is_conv1d,
                threshold=config.llm_int8_threshold,
                has_fp16_weights=config.llm_int8_has_fp16_weight,
            )
        else:
            new = Linear4bit(
                in_features,
                out_features,
                bias is not None,
                is_conv1d,
                compute_dtype=config.bnb_4bit_compute_dtype,
                quant_storage=config.bnb_4bit_quant_storage,
            )
        if bias is not None:
            new.bias = nn.Parameter(bias, requires_grad=False)  # type: ignore[arg-type]
        return new


def quantizer_for(
    config: GPT2Config, quantization_config: BitsAndBytesConfig | Mapping[str, Any] | None
) -> Quantizer | None:
    """Give the Quantizer of a folder's configuration or of the caller's; None without either.

    What a folder says of its weights wins over the caller, with a warning. Raises ConfigError for a packed folder.
    """
    refuse_packed(config)
    stored = quantization_of(config)
    if stored is not None:
        if quantization_config is not None:
            warnings.warn(
                "You passed `quantization_config` or equivalent parameters to `from_pretrained` but the model you're "
                "loading already has a `quantization_config` attribute. The `quantization_config` from the model "
                "will be used.",
                stacklevel=3,
            )
        return Quantizer(stored, pre_quantized=True)
    if quantization_config is None:
        return None
    if isinstance(quantization_config, Mapping):
        quantization_config = BitsAndBytesConfig.from_dict(quantization_config)
    if not isinstance(quantization_config, BitsAndBytesConfig):
        kind = type(quantization_config).__name__
        raise ConfigError(f"quantization_config is a {kind}; it must be a gpt2kit.BitsAndBytesConfig")
    return Quantizer(quantization_config, pre_quantized=False)


def quantized_module(model: nn.Module, name: str) -> QuantizedLinear | None:
    """Give the quantised module whose weight the parameter `name` is; None for any other parameter."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    return module if leaf == "weight" and isinstance(module, QuantizedLinear) else None


def file_shape(model: QuantizedAccess, name: str, parameter: Tensor) -> tuple[int, ...] | None:
    """Give the shape that a parameter has in the file it comes from; None for one that is quantised there."""
    module = quantized_module(model, name)
    if module is None or model.hf_quantizer is None:
        return tuple(parameter.shape)
    if model.hf_quantizer.pre_quantized:
        return None
    shape = (module.out_features, module.in_features)
    return shape[::-1] if module.is_conv1d else shape


def refuse_bare_switches(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for load_in_4bit and load_in_8bit outside of a quantization_config."""
    for name in ("load_in_4bit", "load_in_8bit"):
        if name in settings:
            raise ConfigTypeError(
                f"{name} is no option of from_pretrained; give "
                f"quantization_config=BitsAndBytesConfig({name}={settings[name]!r})"
            )


def _skipped(model: QuantizedAccess, config: BitsAndBytesConfig) -> list[str]:
    """Give patterns of the modules to leave as they are, as Transformers chooses them.

    Without llm_int8_skip_modules these are the output embeddings and the module of the last parameter, when that
    is a weight. Embeddings that are shared with the head are no linear layer, and the head then none of its own.
    """
    tied = (
        ["lm_head"]
        if getattr(model, "lm_head", None) is not None and model.config.tie_word_embeddings
        else []
    )
    if config.llm_int8_skip_modules is not None:
        return tied + config.llm_int8_skip_modules
    last = list(model.named_parameters())[-1][0].removesuffix(".weight")
    head = ["lm_head"] if getattr(model, "lm_head", None) is not None else []
    return [*head, last]


def _is_skipped(name: str, patterns: list[str]) -> bool:
    """Match from the start to the end of a part ("h.1" is not h.11), or as the name's end."""
    return any(
        re.match(rf"(?:{pattern})(?:(?<=\.)|(?=\.|$))", name) or name.endswith(pattern)
        for pattern in patterns
    )


def _rounded(stored: NDArray[Any], dtype: str, wanted: torch.dtype) -> NDArray[Any]:
    """Give stored values in the precision of `wanted`, as float32 or float16, in order."""
    stored = np.ascontiguousarray(stored)
    if dtype == _FORMATS[wanted]:
        return stored if dtype == "F16" else to_float32(stored, dtype)
    rounded = from_float32(to_float32(stored, dtype), _FORMATS[wanted])
    return rounded if wanted == torch.float16 else to_float32(rounded, _FORMATS[wanted])


def _plain(module: QuantizedLinear, dtype: torch.dtype) -> nn.Module:
    """Make the layer that a module stands for."""
    between = getattr(torch, module.quant_dtype) if isinstance(module, Linear4bit) else torch.float32
    weight = module.dequantize(between).to(dtype)
    O, I = module.out_features, module.in_features  # noqa: E741
    with torch.device("meta"):
        new = Conv1D(O, I) if module.is_conv1d else nn.Linear(I, O, bias=module.bias is not None)
    new.weight = nn.Parameter(weight.t().contiguous() if module.is_conv1d else weight)
    if module.bias is not None:
        new.bias = nn.Parameter(module.bias.detach().to(dtype))
    return new.train(module.training)
