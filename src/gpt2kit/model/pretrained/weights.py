"""From a checkpoint into a model on the meta device: one copy of the weights, a piece at a time."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gpt2kit.checkpoint import Checkpoint
from gpt2kit.checkpoint.names import LM_HEAD, TRUNK_PREFIX, quantized_weight
from gpt2kit.config import GPT2Config
from gpt2kit.errors import CheckpointError, ConfigError
from gpt2kit.model.pretrained.info import LoadingInfo
from gpt2kit.model.quantized.linear import QuantizedLinear
from gpt2kit.model.quantized.quantizer import file_shape

if TYPE_CHECKING:
    from gpt2kit.model.pretrained.base import PreTrainedModel

# Formats of a weights file as torch's.
FILE_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
_DRAWING = (
    Tensor.normal_,
    Tensor.uniform_,
    Tensor.fill_,
    Tensor.zero_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_uniform_,
    nn.init.ones_,
    nn.init.zeros_,
)
# Where a weight that has been read is kept: the name in the model and the tensor on the CPU to what the model
# holds, which is on the meta device when the weight is kept elsewhere.
Keep = Callable[[str, Tensor], Tensor]


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Give the torch.dtype of a name such as "float16", which may have "torch." in front."""
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ConfigError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
    return found


def canonical(name: str) -> str:
    """Give the checkpoint's name of a parameter."""
    return name.removeprefix(TRUNK_PREFIX)


def choose_dtype(dtype: str | torch.dtype | None, config: GPT2Config, checkpoint: Checkpoint) -> torch.dtype:
    """Resolve None and "auto": what the configuration says, else what the first weight in the file is."""
    if dtype is not None and dtype != "auto":
        return as_dtype(dtype)
    if config.dtype is not None:
        return as_dtype(config.dtype)
    found = (FILE_DTYPES.get(checkpoint.info(name).dtype) for name in checkpoint.names())
    return next((dtype for dtype in found if dtype is not None), torch.float32)


class NoDrawing(TorchFunctionMode):
    """While this is on, tensors keep what they hold: no random numbers for weights about to be replaced.

    On the meta device drawing would do nothing either, but its first use imports 800 modules of torch.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _DRAWING:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def compare(model: "PreTrainedModel", checkpoint: Checkpoint) -> LoadingInfo:
    """Find out what a checkpoint gives to a model. A head that it stores apart is untied from wte."""
    head = model.get_output_embeddings()
    if head is not None and model.config.tie_word_embeddings and LM_HEAD in checkpoint:
        model.config.tie_word_embeddings = False
        head.weight = nn.Parameter(torch.empty_like(head.weight))
    info = LoadingInfo()
    known = set()
    for name, parameter in model.named_parameters():
        known.add(canonical(name))
        if canonical(name) not in checkpoint:
            info.missing_keys.add(name)
        elif (here := file_shape(model, name, parameter)) is not None:
            there = checkpoint.info(canonical(name)).shape
            if there != here:
                info.mismatched_keys.add((name, there, here))
    info.unexpected_keys = {
        checkpoint.mapped_name(name)
        for name in checkpoint.names()
        if (quantized_weight(name) or name) not in known
    }
    return info


def refuse_mismatches(info: LoadingInfo, where: str) -> None:
    """Raise CheckpointError when the file's shapes are not the model's."""
    if info.mismatched_keys:
        name, there, here = min(
            info.mismatched_keys, key=lambda found: (-len(found[1]), found[0])
        )  # a matrix
        raise CheckpointError(
            f"{where}: {name} has the shape {there} there and {here} here; make the configuration fit, such as "
            "num_labels for a head, or give ignore_mismatched_sizes=True to draw it at random"
        )


def fill(model: "PreTrainedModel", checkpoint: Checkpoint, info: LoadingInfo, keep: Keep) -> None:
    """Replace the meta parameters, in the dtype that they have; what the file lacks is drawn at random."""
    random = set(info.random_names())
    for name, parameter in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if leaf == "weight" and isinstance(module, QuantizedLinear) and model.hf_quantizer is not None:
            if name in random:
                model.hf_quantizer.draw(module, model.dtype, model.initial_std(name))
            else:
                model.hf_quantizer.take_weight(module, checkpoint, canonical(name), model.dtype)
            module.to(keep(name, module.weight.detach()).device)
            continue
        if name in random:
            setattr(
                module, leaf, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu"))
            )
            model.init_weights([name])
            values = getattr(module, leaf).detach()
        else:
            values = read_tensor(checkpoint, canonical(name), parameter.dtype)
        setattr(module, leaf, nn.Parameter(keep(name, values), parameter.requires_grad))
        del values
    model.tie_weights()


def read_tensor(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> Tensor:
    """Copy a tensor out of the files into memory, in the given dtype."""
    stored = checkpoint.info(name)
    values = torch.empty(stored.shape, dtype=dtype, device="cpu")
    flat = values.view(-1)
    start = 0
    for piece in checkpoint.pieces(name):
        copied = torch.from_numpy(np.array(piece.view(np.int16) if stored.dtype == "BF16" else piece))
        flat[start : start + piece.size] = copied.view(FILE_DTYPES[stored.dtype])
        start += piece.size
    return values
