"""The engine that generate() runs on: native over the model's own weights where it gives the same, else torch."""

import logging
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from gpt2kit.checkpoint import BFloat16Array
from gpt2kit.engine.native import NativeEngine, WeightArray, unsupported_reason
from gpt2kit.errors import EngineError
from gpt2kit.model.activations import get_activation
from gpt2kit.model.attention import Conv1D, GPT2Attention
from gpt2kit.model.double_heads import GPT2DoubleHeadsModel, GPT2SequenceSummary
from gpt2kit.model.gpt2 import GPT2MLP, GPT2Block, GPT2LMHeadModel, GPT2Model, GPT2WithLMHead

logger = logging.getLogger(__name__)

# What the native engine computes; any other module, subclasses included, may compute something else.
_PLAIN_MODULES = {
    Conv1D,
    GPT2Attention,
    GPT2Block,
    GPT2DoubleHeadsModel,
    GPT2LMHeadModel,
    GPT2MLP,
    GPT2Model,
    nn.Dropout,
    nn.Embedding,
    nn.LayerNorm,
    nn.Linear,
    nn.ModuleList,
}
_NATIVE_PREFIXES = ("wte.", "wpe.", "h.", "ln_f.", "lm_head.")

# For each model the addresses of its weights, its configuration and the engine over them.
_engines: WeakKeyDictionary[nn.Module, tuple[Any, NativeEngine]] = WeakKeyDictionary()


def choose_engine(
    model: GPT2WithLMHead, engine: str = "auto", *, needs_torch: str | None = None
) -> NativeEngine | None:
    """Return the native engine for a model, or None when torch has to run it.

    engine: "auto", "native" to insist, or "torch". needs_torch: why the call at hand needs torch, if it does.
    Raises EngineError when the native engine is insisted on and something forbids it.
    """
    if engine not in ("auto", "native", "torch"):
        raise EngineError(f"engine is {engine!r}; it must be 'auto', 'native' or 'torch'")
    if engine == "torch":
        return None
    reason = needs_torch or native_obstacle(model)
    if reason is None:
        logger.info("generating on the native engine")
        return native_engine(model)
    if engine == "native":
        raise EngineError(f"the native engine cannot run this: {reason}; use engine='auto' or 'torch'")
    logger.info("generating on torch: %s", reason)
    return None


def native_obstacle(model: GPT2WithLMHead) -> str | None:
    """Say why the native engine would not compute what the model does, or return None when it would."""
    config = model.config
    reason = unsupported_reason(config)
    if reason is not None:
        return reason
    if model.training:
        return "the model is in training mode"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    for name, module in model.named_modules():
        if isinstance(module, GPT2SequenceSummary) or name.startswith("multiple_choice_head"):
            continue  # no part in choosing tokens
        if type(module) not in _PLAIN_MODULES:
            return f"{name or 'the model'} is a {type(module).__name__}"
        if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
            return f"{name or 'the model'} has hooks"
        if isinstance(module, GPT2MLP) and module.act is not get_activation(config.activation_function):
            return f"{name}.act was replaced"
        if isinstance(module, nn.LayerNorm) and module.eps != config.layer_norm_epsilon:
            return f"{name}.eps is {module.eps}"
    for name, parameter in _parameters(model):
        if parameter.device.type != "cpu":
            return f"{name} is on {parameter.device}"
        if parameter.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return f"{name} is {parameter.dtype}"
        if not parameter.is_contiguous():
            return f"{name} is not contiguous"
    return None


def native_engine(model: GPT2WithLMHead) -> NativeEngine:
    """Return the native engine over the model's own weights: what changes in them is seen at once.

    One engine is kept for each model; another is made when a parameter, the configuration or torch's number of
    threads was replaced.
    """
    threads = torch.get_num_threads()
    parameters = _parameters(model)
    state = (
        threads,
        model.config.to_json_string(),
        [(name, p.data_ptr(), p.shape, p.dtype) for name, p in parameters],
    )
    kept = _engines.get(model)
    if kept is not None and kept[0] == state:
        return kept[1]
    engine = NativeEngine(model.config, {name: _array(p) for name, p in parameters}, threads=threads)
    _engines[model] = (state, engine)
    return engine


def _array(parameter: nn.Parameter) -> WeightArray:
    """The same memory as an array."""
    if parameter.dtype == torch.bfloat16:
        return BFloat16Array(parameter.detach().view(torch.uint16).numpy())
    array: WeightArray = parameter.detach().numpy()
    return array


def _parameters(model: GPT2WithLMHead) -> list[tuple[str, nn.Parameter]]:
    """The weights under the checkpoint's names, a head that is tied left out."""
    named = [
        (name.removeprefix("transformer."), parameter)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    ]
    is_tied = model.config.tie_word_embeddings and model.lm_head.weight is model.transformer.wte.weight
    return [
        (name, parameter)
        for name, parameter in named
        if name.startswith(_NATIVE_PREFIXES) and not (is_tied and name == "lm_head.weight")
    ]
