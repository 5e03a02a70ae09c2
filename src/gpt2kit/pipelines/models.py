"""From what a caller gives as a model to what runs it: an engine, or a network with a head."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpt2kit.checkpoint import Checkpoint, open_checkpoint
from gpt2kit.engine import NativeEngine, load_engine
from gpt2kit.engine.load import choose_engine
from gpt2kit.errors import PipelineError
from gpt2kit.generation import Engine
from gpt2kit.pipelines.device import choose_device

if TYPE_CHECKING:
    from gpt2kit.engine.heads import NetworkWithHead


def as_engine(model: Any) -> Engine:
    """Return an engine as it is, and for a torch model the one that its generate() would run on now.

    Raises PipelineError for anything else and EngineError for a torch model in training mode.
    """
    if hasattr(model, "state_dict"):
        from gpt2kit.engine.torch import TorchEngine
        from gpt2kit.model import GPT2DoubleHeadsModel, GPT2LMHeadModel
        from gpt2kit.torch_generation.engines import choose_engine as engine_of

        if not isinstance(model, (GPT2LMHeadModel, GPT2DoubleHeadsModel)):
            kind = type(model)
            raise PipelineError(
                f"the model is a {kind.__module__} {kind.__name__}, which does not generate here; use gpt2kit's "
                "GPT2LMHeadModel, or pass the model's folder"
            )
        return engine_of(model) or TorchEngine(model)
    if not hasattr(model, "new_sequence"):
        raise PipelineError(
            f"model must be a folder, a hub name, a Checkpoint, an engine or a torch model, got {model!r:.80}"
        )
    engine: Engine = model
    return engine


def moved(model: Any, device: Any) -> Any:
    """Return a torch model on the device asked for, and anything else as it is.

    device: as choose_device takes it; None moves nothing. Raises PipelineError for an engine elsewhere.
    """
    if device is None:
        return model
    place = choose_device(device)
    if hasattr(model, "state_dict"):
        return model.to(place)
    if place != "cpu":
        raise PipelineError(f"device={place!r} cannot move an engine; load the model there instead")
    return model


def as_network(model: Any, head: str | None, task: str, device: Any = None) -> NetworkWithHead:
    """Return a network with a head as it is and make one of a torch model.

    head: the name of the head that the task needs; None takes an engine too.
    """
    model = moved(model, device)
    if hasattr(model, "state_dict"):
        from gpt2kit.engine.torch_heads import ModuleWithHead

        return ModuleWithHead(model, head)
    if hasattr(model, "run"):
        network: NetworkWithHead = model
        return network
    if hasattr(model, "new_sequence"):
        if head is not None:
            raise PipelineError(
                f"an engine has no head, and {task} needs one; pass the folder of a model, or an EngineWithHead"
            )
        from gpt2kit.engine.heads import EngineWithHead

        return EngineWithHead(model)
    raise PipelineError(
        f"model must be a folder, a hub name, a Checkpoint, a torch model or an EngineWithHead, got {model!r:.80}"
    )


def with_assistant(options: Mapping[str, Any], tokenizer: Any, engine: Any) -> dict[str, Any]:
    """Return options of a call with its assistant_model as an engine, and its tokenizer if it has another.

    assistant_model: a folder, a hub name, a Checkpoint, an engine or a torch model. The tokenizer comes with
    one that is named; it is left out when it has the vocabulary of `tokenizer`, the model's own. What is loaded
    computes with as many threads as `engine`, the model's.
    """
    result = dict(options)
    model, own = result.get("assistant_model"), result.get("assistant_tokenizer")
    source = own
    if isinstance(model, (str, os.PathLike)):
        from gpt2kit.hub import resolve_folder

        folder = resolve_folder(model)
        model, source = _load_assistant(open_checkpoint(folder), engine), folder if own is None else own
    elif isinstance(model, Checkpoint):
        source = model.folder if own is None else own
        model = _load_assistant(model, engine)
    elif model is not None:
        model = as_engine(model)
    if isinstance(source, (str, os.PathLike)):
        from gpt2kit.tokenizer import AutoTokenizer

        source = AutoTokenizer.from_pretrained(source)
    if source is not None and source.get_vocab() == tokenizer.get_vocab():
        source = None
    if model is not None:
        result |= {"assistant_model": model, "assistant_tokenizer": source}
    return result


def _load_assistant(checkpoint: Checkpoint, engine: Any) -> Engine:
    is_native = isinstance(engine, NativeEngine) and choose_engine(checkpoint.config) == "native"
    return load_engine(checkpoint, threads=engine.threads if is_native else None)
