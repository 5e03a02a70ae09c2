"""Arguments of from_pretrained: which of Transformers' are refused and why, and whose configuration it is."""

import difflib
import os
from collections.abc import Iterable, Mapping
from typing import Any

from gpt2kit.checkpoint import Checkpoint
from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError

# Arguments that only say what is the case here anyway.
_ACCEPTED = frozenset(
    {
        "low_cpu_mem_usage",
        "offload_state_dict",
        "mirror",
        "tqdm_class",
        "_fast_init",
        "_from_auto",
        "_from_pipeline",
        "_commit_hash",
    }
)
# Arguments that are not supported, and why.
_REFUSED = {
    "trust_remote_code": "no code is ever fetched or run; leave it out",
    "gguf_file": "GGUF files are not read; convert the model to safetensors with the tool that wrote it",
    "from_tf": "give the folder of an OpenAI checkpoint (model.ckpt.*) as it is, without from_tf",
    "from_flax": "Flax checkpoints are not read; convert the model to safetensors",
    "tp_plan": "tensor parallelism is not supported; give a device_map",
    "tp_size": "tensor parallelism is not supported; give a device_map",
    "device_mesh": "tensor parallelism is not supported; give a device_map",
    "distributed_config": "distributed loading is not supported; give a device_map",
    "fusion_config": "modules are not fused; leave it out",
    "use_kernels": "kernels are not fetched; attn_implementation chooses among those that are here",
    "kernel_config": "kernels are not fetched; attn_implementation chooses among those that are here",
    "allow_all_kernels": "kernels are not fetched; attn_implementation chooses among those that are here",
    "experts_implementation": "a GPT-2 has no experts; leave it out",
    "proxies": "set HTTPS_PROXY in the environment, which huggingface_hub reads",
    "adapter_kwargs": "adapters are not supported; merge them into the model's weights",
    "adapter_name": "adapters are not supported; merge them into the model's weights",
}


def accepted(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Give the arguments that are left when those of Transformers without an effect here are taken out.

    Raises ConfigError for those that would have one; None and False ask for nothing.
    """
    for name, reason in _REFUSED.items():
        if arguments.get(name) not in (None, False):
            raise ConfigError(f"{name} is {str(arguments[name])[:80]!r}: {reason}")
    return {
        name: value for name, value in arguments.items() if name not in _ACCEPTED and name not in _REFUSED
    }


def find_config(
    model: str | os.PathLike[str] | Checkpoint | None,
    config: GPT2Config | str | os.PathLike[str] | None,
    settings: Mapping[str, Any],
    source: Mapping[str, Any],
    known: Iterable[str],
) -> GPT2Config | None:
    """Give the configuration that a caller asks for, or None for the model's own as it is.

    settings change single fields; known are names that a mistyped one may have meant. source: as for
    GPT2Config.from_pretrained. Raises ConfigError.
    """
    at = model if config is None else config
    if isinstance(at, (GPT2Config, Checkpoint)):
        _refuse_unknown(settings, known)
        if settings:
            given = ", ".join(settings)
            raise ConfigError(f"{given} given beside a configuration; change the configuration instead")
        return at if isinstance(at, GPT2Config) else None
    if at is None or (config is None and not settings):
        return None
    found, unused = GPT2Config.from_pretrained(at, return_unused_kwargs=True, **source, **settings)
    _refuse_unknown(unused, known)
    assert isinstance(found, GPT2Config)
    return found


def _refuse_unknown(settings: Mapping[str, Any], known: Iterable[str]) -> None:
    allowed = {*known, *GPT2Config().to_dict(), *GPT2Config.attribute_map, "num_labels", "output_attentions"}
    for name in settings:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else "leave it out"
            raise ConfigError(f"{name!r} is no argument of from_pretrained and no setting of a GPT-2; {hint}")
