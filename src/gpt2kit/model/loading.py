"""PreTrainedModel: a torch module that starts from random weights or from a folder and is written to one."""

import math
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gpt2kit.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from gpt2kit.checkpoint.names import quantized_weight
from gpt2kit.config import BitsAndBytesConfig, GPT2Config
from gpt2kit.errors import CheckpointError, ConfigError
from gpt2kit.model.embeddings import EmbeddingAccess
from gpt2kit.model.quantized_access import QuantizedAccess
from gpt2kit.model.quantizer import (
    file_shape,
    quantized_module,
    quantizer_for,
    refuse_bare_switches,
)

ATTN_IMPLEMENTATIONS = ("sdpa", "eager")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Formats of a weights file that torch can hold as they are.
_FILE_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

M = TypeVar("M", bound="PreTrainedModel")


class PreTrainedModel(EmbeddingAccess, QuantizedAccess):
    """A model with its configuration; the trunk, if it is a part, is called `transformer`."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.attn_implementation = "sdpa"
        self.set_attn_implementation(config.attn_implementation or "sdpa")

    @classmethod
    def from_config(
        cls: type[M],
        config: GPT2Config,
        *,
        dtype: str | torch.dtype | None = None,
        attn_implementation: str | None = None,
    ) -> M:
        """Build a model with random weights, in float32 or in dtype."""
        if attn_implementation is not None:
            config.attn_implementation = attn_implementation
        model = cls(config)
        return model if dtype is None else model.to(as_dtype(dtype))

    @classmethod
    def from_pretrained(
        cls: type[M],
        pretrained_model_name_or_path: str | os.PathLike[str] | Checkpoint,
        *,
        config: GPT2Config | None = None,
        dtype: str | torch.dtype = "auto",
        torch_dtype: str | torch.dtype | None = None,
        device_map: str | int | torch.device | None = None,
        attn_implementation: str | None = None,
        quantization_config: BitsAndBytesConfig | Mapping[str, Any] | None = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        use_safetensors: bool | None = None,
        variant: str | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        **settings: Any,
    ) -> Any:
        """Read a model from a folder, the hub or an open Checkpoint; it is in eval mode.

        config replaces the folder's; settings change single fields of the folder's, such as pad_token_id.

        dtype, or torch_dtype: "auto" keeps the file's, else a name or torch.dtype. device_map: a device for
        the whole model; None is the CPU. use_safetensors=False also reads pickled .bin files, as weights
        only. Weights that the file lacks are drawn at random with a warning, and with ignore_mismatched_sizes
        those of a head for another number of labels too. output_loading_info also returns a dict of
        missing_keys, unexpected_keys and mismatched_keys, the last as (name, shape there, shape here).

        Raises CheckpointError, ConfigError or HubError.
        """
        source: dict[str, Any] = {
            "subfolder": subfolder,
            "revision": revision,
            "cache_dir": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
            "force_download": force_download,
        }
        name = pretrained_model_name_or_path
        refuse_bare_switches(settings)
        if settings:
            if config is not None or isinstance(name, Checkpoint):
                given = ", ".join(settings)
                raise ConfigError(f"{given} given beside a configuration; change the configuration instead")
            config = GPT2Config.from_pretrained(name, **source, **settings)
        if isinstance(name, Checkpoint):
            checkpoint = name
        else:
            checkpoint = open_checkpoint(
                name,
                config=config,
                allow_pickle=use_safetensors is False,
                allow_missing=True,
                variant=variant,
                **source,
            )
        config = config if config is not None else checkpoint.config
        if attn_implementation is not None:
            config.attn_implementation = attn_implementation
        dtype = dtype if torch_dtype is None else torch_dtype
        quantizer = quantizer_for(config, quantization_config)
        with torch.device("meta"):
            model = cls(config)
        if quantizer is not None:
            quantizer.put_modules(model, device_map if isinstance(device_map, Mapping) else None)
        info = model._take_weights(
            checkpoint, None if dtype == "auto" else as_dtype(dtype), ignore_mismatched_sizes
        )
        model.eval()
        if device_map is not None:
            model.to(as_device(device_map))
        return (model, info) if output_loading_info else model

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, max_shard_size: int | str = "50GB"
    ) -> None:
        """Write config.json and safetensors in the model's dtype, which Transformers reads too."""
        tensors, dtypes = {}, {}
        for name, parameter in self.named_parameters():
            module = quantized_module(self, name)
            if module is not None and not module.is_float:
                tensors.update(module.stored_parts(_canonical(name)))
                continue
            tensors[_canonical(name)], dtypes[_canonical(name)] = _to_numpy(parameter)
        config = GPT2Config.from_dict(self.config.to_dict())
        config.architectures = [type(self).__name__]
        save_checkpoint(save_directory, tensors, config, max_shard_size=max_shard_size, dtypes=dtypes)

    @torch.no_grad()
    def init_weights(self, names: Iterable[str] | None = None) -> None:
        """Draw weights anew, all or those named: N(0, initializer_range), biases 0, norms 1.

        What a residual projection writes is scaled by 1 / sqrt(2 n_layer): there are two additions to the
        stream per block, and its variance must not grow with depth.
        """
        parameters = dict(self.named_parameters())
        for name in parameters if names is None else names:
            if quantized_module(self, name) is not None:
                continue
            if name.endswith(".bias"):
                parameters[name].zero_()
            elif name.split(".")[-2].startswith("ln_"):
                parameters[name].fill_(1.0)
            else:
                parameters[name].normal_(0.0, self._std(name))

    def _std(self, name: str) -> float:
        """The standard deviation from which a weight is drawn."""
        std = self.config.initializer_range
        return std / math.sqrt(2 * self.config.n_layer) if name.endswith("c_proj.weight") else std

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Choose how attention is computed: "sdpa" (fused, the default) or "eager" (written out)."""
        if attn_implementation not in ATTN_IMPLEMENTATIONS:
            allowed = ", ".join(ATTN_IMPLEMENTATIONS)
            raise ConfigError(f"attn_implementation is {attn_implementation!r}; it must be one of {allowed}")
        for module in self.modules():
            if isinstance(module, PreTrainedModel):
                module.attn_implementation = attn_implementation

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def _asks(self, field: str, argument: bool | None) -> bool:
        """An argument's value, or the configuration's when it was not given."""
        return bool(getattr(self.config, field)) if argument is None else argument

    def _take_weights(
        self, checkpoint: Checkpoint, dtype: torch.dtype | None, ignore_mismatched_sizes: bool = False
    ) -> dict[str, list[Any]]:
        """Fill a model on the meta device; report what was missing, what was left over and what did not fit."""
        held = set(checkpoint.names())
        wanted = dict(self.named_parameters())
        missing = [name for name in wanted if _canonical(name) not in held]
        known = {_canonical(name) for name, _ in self.named_parameters(remove_duplicate=False)}
        unexpected = sorted(name for name in held if (quantized_weight(name) or name) not in known)
        shapes = {name: file_shape(self, name, parameter) for name, parameter in wanted.items()}
        mismatched = [
            (name, there, here)
            for name, here in shapes.items()
            if name not in missing and (there := checkpoint.info(_canonical(name)).shape) != here and here
        ]
        where = f"{checkpoint.folder}, read as {type(self).__name__}"
        if mismatched and not ignore_mismatched_sizes:
            name, there, here = mismatched[0]
            raise CheckpointError(
                f"{where}: {name} has the shape {there} there and {here} here; make the configuration's labels fit, "
                "such as num_labels, or give ignore_mismatched_sizes=True to draw it at random"
            )
        random = [*missing, *(name for name, _, _ in mismatched)]
        common = dtype or _FILE_DTYPES[checkpoint.info("wte.weight").dtype]
        for name, parameter in wanted.items():
            if (module := quantized_module(self, name)) is not None and self.hf_quantizer is not None:
                if name in random:
                    self.hf_quantizer.draw(module, common, self._std(name))
                else:
                    self.hf_quantizer.take_weight(module, checkpoint, _canonical(name), common)
                checkpoint.drop_pages()
                continue
            if name in random:
                values = torch.empty(parameter.shape, dtype=common)
            else:
                values = _from_checkpoint(checkpoint, _canonical(name), dtype)
            owner, _, leaf = name.rpartition(".")
            setattr(self.get_submodule(owner), leaf, nn.Parameter(values, parameter.requires_grad))
        self.tie_weights()
        self.init_weights(random)
        if random:
            what = "missing or of another shape" if mismatched else "missing"
            warnings.warn(
                f"{where}: {', '.join(random)} {what}; drawn at random, train before use", stacklevel=3
            )
        if unexpected:
            warnings.warn(f"{where}: {', '.join(unexpected)} not used", stacklevel=3)
        return {"missing_keys": missing, "unexpected_keys": unexpected, "mismatched_keys": mismatched}


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Give the torch.dtype of a name such as "float16", which may have "torch." in front."""
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ConfigError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
    return found


def as_device(device: str | int | torch.device) -> torch.device:
    """Give the device of a name or number, after looking whether this machine has it."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    here = "cpu" if accelerator is None else f"cpu and {accelerator.type}"
    try:
        if device == "auto":
            return accelerator or torch.device("cpu")
        if isinstance(device, int):
            device = f"{accelerator.type if accelerator else 'cuda'}:{device}"
        wanted = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device is {device!r}; this machine has {here}") from None
    count = (
        torch.accelerator.device_count() if accelerator is not None and wanted.type == accelerator.type else 0
    )
    if wanted.type != "cpu" and (wanted.index or 0) >= count:
        raise ConfigError(f"device is {str(device)!r}; this machine has {here}")
    return wanted


def _canonical(name: str) -> str:
    return name.removeprefix("transformer.")


def _from_checkpoint(checkpoint: Checkpoint, name: str, dtype: torch.dtype | None) -> Tensor:
    """Copy a tensor out of the file, in its own dtype or another."""
    stored = checkpoint.tensor(name)
    values = torch.from_numpy(np.array(stored.view(np.int16) if stored.dtype == np.uint16 else stored))
    if stored.dtype == np.uint16:
        values = values.view(torch.bfloat16)
    return values if dtype is None else values.to(dtype)


def _to_numpy(parameter: Tensor) -> tuple[NDArray[Any], str]:
    """Give a weight as an array that save_checkpoint takes, and the name of its format."""
    values = parameter.detach().cpu().contiguous()
    for dtype, torch_dtype in _FILE_DTYPES.items():
        if values.dtype == torch_dtype:
            is_bfloat16 = values.dtype == torch.bfloat16
            return (
                values.view(torch.int16).numpy().view(np.uint16) if is_bfloat16 else values.numpy()
            ), dtype
    raise ConfigError(f"weights are {values.dtype}; they can be written as {', '.join(DTYPES)}")
