"""save_pretrained: a model as a folder that Transformers reads too."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2kit.checkpoint import save_checkpoint
from gpt2kit.checkpoint.names import quantized_weight
from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError
from gpt2kit.model.pretrained.weights import FILE_DTYPES, canonical

if TYPE_CHECKING:
    from gpt2kit.model.pretrained.base import PreTrainedModel

# Formats of quantised weights that no other weight has.
_PACKED = {torch.uint8: "U8", torch.int8: "I8", torch.float64: "F64"}


def save_model(
    model: "PreTrainedModel",
    save_directory: str | os.PathLike[str],
    *,
    state_dict: Mapping[str, Tensor] | None = None,
    max_shard_size: int | str = "50GB",
    variant: str | None = None,
) -> list[str]:
    """Write config.json, safetensors and, for a model that generates, generation_config.json.

    state_dict: weights to write instead of the model's, all or some. Gives the names of the files. Nothing is
    written when something is wrong.
    """
    tensors, dtypes = {}, {}
    for name, parameter in (state_dict or _own_weights(model)).items():
        is_packed = model.is_quantized and parameter.dtype in _PACKED
        tensors[canonical(name)], dtypes[canonical(name)] = _to_numpy(name, parameter, is_packed)
    config = GPT2Config.from_dict(model.config.to_dict())
    config.architectures = [type(model).__name__]
    return save_checkpoint(
        save_directory,
        tensors,
        config,
        max_shard_size=max_shard_size,
        dtypes=dtypes,
        variant=variant,
        allow_missing=state_dict is not None,
        generation_config=model.generation_config,
    )


def _own_weights(model: "PreTrainedModel") -> dict[str, Tensor]:
    """Give the weights by name, a tied head once; those that accelerate keeps on disk are brought here."""
    weights: dict[str, Tensor] = dict(model.named_parameters())
    if any(tensor.is_meta for tensor in weights.values()):
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        offloaded = get_state_dict_offloaded_model(model)
        weights = {name: offloaded[name] for name in weights}
    if model.is_quantized:
        weights.update({name: value for name, value in model.state_dict().items() if quantized_weight(name)})
    return weights


def _to_numpy(name: str, parameter: Tensor, is_packed: bool) -> tuple[NDArray[Any], str]:
    """Give a weight as an array that save_checkpoint takes, and the name of its format."""
    values = parameter.detach().cpu().contiguous()
    if is_packed:
        return values.numpy(), _PACKED[values.dtype]
    for dtype, torch_dtype in FILE_DTYPES.items():
        if values.dtype == torch_dtype:
            is_bfloat16 = values.dtype == torch.bfloat16
            return (
                values.view(torch.int16).numpy().view(np.uint16) if is_bfloat16 else values.numpy()
            ), dtype
    allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in FILE_DTYPES.values())
    raise ConfigError(
        f"{name} is {values.dtype}; weights can be written as {allowed}: convert with model.to()"
    )
