"""PreTrainedModel: a torch module that starts from random weights or from a folder and is written to one.

arguments.py judges from_pretrained's arguments, weights.py copies tensors out of a checkpoint,
placement.py knows devices, saving.py writes.
"""

import copy
import inspect
import math
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from gpt2kit.checkpoint import Checkpoint, checkpoint_of_tensors, open_checkpoint
from gpt2kit.config import BitsAndBytesConfig, GenerationConfig, GPT2Config
from gpt2kit.errors import ConfigError
from gpt2kit.hub import push_files, push_saved
from gpt2kit.model.attention_backends import DEFAULT_BACKEND, get_backend
from gpt2kit.model.pretrained.arguments import accepted, find_config
from gpt2kit.model.pretrained.placement import plan
from gpt2kit.model.pretrained.saving import save_model
from gpt2kit.model.pretrained.weights import (
    NoDrawing,
    as_dtype,
    choose_dtype,
    compare,
    fill,
    refuse_mismatches,
)
from gpt2kit.model.quantized.access import QuantizedAccess
from gpt2kit.model.quantized.quantizer import quantizer_for, refuse_bare_switches
from gpt2kit.model.switches import ModelSwitches

M = TypeVar("M", bound="PreTrainedModel")


class PreTrainedModel(ModelSwitches, QuantizedAccess):
    """A model with its configuration; the trunk, if it is a part, is called `transformer`.

    generation_config: what a model that generates does by default; None for one that does not.
    """

    config_class = GPT2Config
    main_input_name = "input_ids"
    generation_config: GenerationConfig | None

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.generation_config = GenerationConfig.from_model_config(config) if self.can_generate() else None
        get_backend(config.attn_implementation or DEFAULT_BACKEND)  # refuses now what could not run later

    @classmethod
    def can_generate(cls) -> bool:
        """Tell whether the model continues text."""
        return False

    @classmethod
    def from_config(
        cls: type[M],
        config: GPT2Config,
        *,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        attn_implementation: str | None = None,
        trust_remote_code: bool | None = None,
    ) -> M:
        """Build a model with random weights, in dtype, the configuration's dtype or float32."""
        accepted({"trust_remote_code": trust_remote_code})
        config = copy.deepcopy(config)
        if attn_implementation is not None:
            config.attn_implementation = attn_implementation
        wanted = dtype if dtype is not None else torch_dtype
        wanted = config.dtype if wanted is None or wanted == "auto" else wanted
        model = cls(config)
        return model if wanted is None else model.to(as_dtype(wanted))

    _from_config = from_config

    @classmethod
    def from_pretrained(
        cls: type[M],
        pretrained_model_name_or_path: str | os.PathLike[str] | Checkpoint | None,
        *,
        config: GPT2Config | str | os.PathLike[str] | None = None,
        state_dict: Mapping[str, Tensor] | None = None,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        device_map: str | int | torch.device | Mapping[str, Any] | None = None,
        max_memory: Mapping[Any, int | str] | None = None,
        offload_folder: str | os.PathLike[str] | None = None,
        offload_buffers: bool = False,
        attn_implementation: str | None = None,
        quantization_config: BitsAndBytesConfig | Mapping[str, Any] | None = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        key_mapping: Mapping[str, str] | None = None,
        use_safetensors: bool | None = None,
        weights_only: bool = True,
        disable_mmap: bool | None = None,
        generation_config: GenerationConfig | None = None,
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

        config, an object, folder or file, replaces the folder's; settings change single fields of the
        folder's, such as pad_token_id. With state_dict, weights by name, and config the model's name is None.

        dtype: None and "auto" are the configuration's, or else the file's; or a name or torch.dtype.
        device_map, max_memory, offload_folder: as for placement.plan; None is the CPU, or
        torch's default device where that is another. use_safetensors=False
        reads pickled .bin files, as tensors only; otherwise they are refused. key_mapping: regular
        expressions and what replaces them in the names of the file. Memory is needed for one copy
        of the weights, and for the file beside it if that is a .bin or disable_mmap reads it in whole.

        quantization_config: hold linear layers in 8 or 4 bits; a folder that is quantised needs none.

        Weights that the file lacks are drawn at random with a warning, and with ignore_mismatched_sizes those
        of another shape too. output_loading_info also returns a dict of missing_keys, unexpected_keys,
        mismatched_keys, the last as (name, shape there, shape here), and error_msgs.

        Raises CheckpointError, ConfigError or HubError.
        """
        refuse_bare_switches(settings)
        settings = accepted(settings)
        if not weights_only:
            raise ConfigError("weights_only=False would run code out of a pickle; only tensors are read")
        name = pretrained_model_name_or_path
        source: dict[str, Any] = {
            "subfolder": subfolder,
            "revision": revision,
            "cache_dir": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
            "force_download": force_download,
        }
        given = find_config(name, config, settings, source, inspect.signature(cls.from_pretrained).parameters)
        if state_dict is not None:
            if name is not None or given is None:
                raise ConfigError("state_dict goes with a config, and with None in place of the model's name")
            checkpoint = checkpoint_of_tensors(state_dict, given, key_mapping=key_mapping)
        elif name is None:
            raise ConfigError("no model is named; give a folder, a name on the hub, or config and state_dict")
        elif isinstance(name, Checkpoint):
            checkpoint = name
        else:
            checkpoint = open_checkpoint(
                name,
                config=given,
                allow_pickle=use_safetensors is False,
                skip_safetensors=use_safetensors is False,
                allow_missing=True,
                allow_mismatched=True,
                mmap=not disable_mmap,
                variant=variant,
                key_mapping=key_mapping,
                **source,
            )

        new = copy.deepcopy(checkpoint.config if given is None else given)
        if attn_implementation is not None:
            new.attn_implementation = attn_implementation
        chosen = choose_dtype(dtype if dtype is not None else torch_dtype, new, checkpoint)
        new.dtype = str(chosen)
        new.name_or_path = checkpoint.folder if name is None or isinstance(name, Checkpoint) else name
        with torch.device("meta"), NoDrawing():
            model = cls(new).to(chosen)
        quantizer = quantizer_for(new, quantization_config)
        if quantizer is not None:
            quantizer.put_modules(model, device_map)
        info = compare(model, checkpoint)
        where = f"{checkpoint.folder}, read as {cls.__name__}"
        if not ignore_mismatched_sizes:
            refuse_mismatches(info, where)
        placement = plan(
            model,
            device_map,
            max_memory=max_memory,
            offload_folder=offload_folder,
            offload_buffers=offload_buffers,
        )
        if quantizer is not None:
            quantizer.check_places(model, placement)
        fill(model, checkpoint, info, placement.keep)
        model.eval()
        if model.can_generate():
            model.generation_config = (
                copy.deepcopy(generation_config)
                if generation_config is not None
                else _generation_config(new, checkpoint.folder, settings)
            )
        placement.finish(model)
        if report := info.in_one_line():
            warnings.warn(f"{where}: {report}", stacklevel=2)
        return (model, info.to_dict()) if output_loading_info else model

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        max_shard_size: int | str = "50GB",
        variant: str | None = None,
        safe_serialization: bool = True,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        save_peft_format: bool = True,
        save_original_format: bool = True,
        **hub_options: Any,
    ) -> None:
        """Write config.json, safetensors in the model's dtype and generation_config.json, as Transformers does.

        state_dict: weights to write instead of the model's, all or some. Above max_shard_size, bytes or
        "5GB", weights are written in shards. variant "fp16" makes model.fp16.safetensors. Where
        is_main_process is false nothing is written. push_to_hub also publishes the files in repo_id, by
        default a repository with the folder's name; hub_options as for push_to_hub. save_peft_format and
        save_original_format concern other models and change nothing.

        Raises CheckpointError, ConfigError or GenerationError before anything is written; HubError.
        """
        if not safe_serialization:
            raise ConfigError(
                "safe_serialization=False would write a pickle, which can hold code; leave it out"
            )
        if not push_to_hub and hub_options.keys() - {"token"}:
            raise ConfigError(f"{', '.join(hub_options)} given without push_to_hub=True; leave them out")
        if not is_main_process:
            return
        files = save_model(
            self, save_directory, state_dict=state_dict, max_shard_size=max_shard_size, variant=variant
        )
        if push_to_hub:
            push_files(save_directory, files, repo_id, **{"commit_message": "Upload model", **hub_options})

    def push_to_hub(
        self, repo_id: str, *, max_shard_size: int | str = "50GB", variant: str | None = None, **options: Any
    ) -> Any:
        """Publish what save_pretrained writes, as one commit of a repository that is made if needed.

        options: commit_message, commit_description, private, token, revision (a branch), create_pr, tags.
        Gives huggingface_hub's CommitInfo. Raises HubError.
        """
        return push_saved(
            lambda folder: save_model(self, folder, max_shard_size=max_shard_size, variant=variant),
            repo_id,
            **{"commit_message": "Upload model", **options},
        )

    def post_init(self) -> None:
        """Tie what is tied and draw the weights beside the trunk; the last step of a model's constructor."""
        self.tie_weights()
        trunk = "" if self.base_model is self else f"{self.base_model_prefix}."
        names = [name for name, _ in self.named_parameters()]
        self.init_weights(name for name in names if not trunk or not name.startswith(trunk))

    @torch.no_grad()
    def init_weights(self, names: Iterable[str] | None = None) -> None:
        """Draw weights anew, all or those named: N(0, initializer_range), biases 0, norms 1.

        What a residual projection writes is scaled by 1 / sqrt(2 n_layer): there are two additions to the
        stream per block, and its variance must not grow with depth.
        """
        parameters = dict(self.named_parameters())
        for name in parameters if names is None else names:
            if name.endswith(".bias"):
                parameters[name].zero_()
            elif name.split(".")[-2].startswith("ln_"):
                parameters[name].fill_(1.0)
            else:
                parameters[name].normal_(0.0, self.initial_std(name))

    def initial_std(self, name: str) -> float:
        """Give the standard deviation from which a weight is drawn."""
        std = self.config.initializer_range
        return std / math.sqrt(2 * self.config.n_layer) if name.endswith("c_proj.weight") else std

    @property
    def name_or_path(self) -> str:
        """The name or folder that the model was loaded from, or ""."""
        return self.config.name_or_path

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def _asks(self, field: str, argument: bool | None) -> bool:
        """An argument's value, or the configuration's when it was not given."""
        return bool(getattr(self.config, field)) if argument is None else argument


def _generation_config(config: GPT2Config, folder: Path, settings: Mapping[str, Any]) -> GenerationConfig:
    """Give a folder's options of generation, some of them changed, or those in the configuration."""
    if not any((folder / name).is_file() for name in ("generation_config.json", "config.json")):
        return GenerationConfig.from_model_config(config)
    options = GenerationConfig.for_model(folder)
    options.update(**settings)
    return options
