"""pipeline(): load what a task needs and put it together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gpt2kit.checkpoint import Checkpoint
from gpt2kit.errors import GenerationError
from gpt2kit.generation import Engine
from gpt2kit.pipelines.device import choose_device
from gpt2kit.pipelines.text_generation import TextGenerationPipeline

TASKS = {"text-generation": TextGenerationPipeline}


def pipeline(
    task: str | None = None,
    model: Any = None,  # a folder, a hub name, a Checkpoint, an engine or a torch model
    tokenizer: Any = None,  # a folder, a hub name or a tokenizer
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    cache_dir: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    variant: str | None = None,
    allow_pickle: bool = False,
    device: Any = None,  # None, a number, a string or a torch.device
    device_map: Any = None,
    dtype: Any = "auto",
    quant: str | None = None,
    threads: int | None = None,
    engine: str = "auto",
    **options: Any,
) -> TextGenerationPipeline:
    """Load a model and its tokenizer for a task and return the pipeline.

    task: "text-generation", or None for it. model: a folder or hub name; None is the small built-in model.
    tokenizer: only needed when `model` is an engine or a torch model.
    revision to allow_pickle: as for from_pretrained.
    device: None or -1 for the CPU, which needs no torch; a number for an accelerator, with a fall-back to
        the CPU.
    dtype, quant, threads, engine: as for load_engine. options: defaults for every call of the pipeline.

        >>> pipe = pipeline("text-generation")
        >>> pipe("Once upon a time", max_new_tokens=8)[0]["generated_text"]  # doctest: +SKIP
    """
    if task is not None and task not in TASKS:
        raise GenerationError(f"there is no pipeline for task {task!r}; available: {', '.join(TASKS)}")
    if device is not None and device_map is not None:
        raise GenerationError(f"device={device!r} and device_map={device_map!r} exclude each other; give one")
    where = device if device_map is None else device_map
    place = choose_device(where)
    find = {
        "revision": revision,
        "subfolder": subfolder,
        "cache_dir": cache_dir,
        "token": token,
        "local_files_only": local_files_only,
        "force_download": force_download,
    }
    files = {"variant": variant, "allow_pickle": allow_pickle}
    run = {"dtype": str(dtype).removeprefix("torch."), "quant": quant, "threads": threads, "engine": engine}
    if model is None or isinstance(model, (str, os.PathLike)):
        folder = _find(model, find | files)
        return TextGenerationPipeline(
            _load(folder, place, run | files), _load_tokenizer(tokenizer, folder), **options
        )
    _refuse_loading_options(model, find | files)
    if isinstance(model, Checkpoint):
        return TextGenerationPipeline(
            _load(model, place, run), _load_tokenizer(tokenizer, model.folder), **options
        )
    _refuse_loading_options(model, run)
    if tokenizer is None:
        raise GenerationError("model is an object, so its tokenizer is not known; pass tokenizer=")
    return TextGenerationPipeline(
        _wrap(model, place if where is not None else None), _load_tokenizer(tokenizer, None), **options
    )


def _find(model: str | os.PathLike[str] | None, how: dict[str, Any]) -> Path:
    if model is None:
        _refuse_loading_options("the built-in model", how)
        from gpt2kit import builtin

        return builtin.path()
    from gpt2kit.hub import resolve_folder

    return resolve_folder(model, **how)


def _load(model: Path | Checkpoint, place: str, how: dict[str, Any]) -> Engine:
    from gpt2kit.engine import load_engine

    return load_engine(model, device=place, **how)


def _wrap(model: Any, place: str | None) -> Engine:
    """Return an engine as it is and put a torch model into one; `place` is a device that was asked for."""
    if hasattr(model, "state_dict"):
        from gpt2kit.engine.torch import TorchEngine

        return TorchEngine(model if place is None else model.to(place))
    if not hasattr(model, "new_sequence"):
        raise GenerationError(
            f"model must be a folder, a hub name, a Checkpoint, an engine or a torch model, got {model!r}"
        )
    if place not in (None, "cpu"):
        raise GenerationError(f"device={place!r} cannot move an engine; load the model there instead")
    engine: Engine = model
    return engine


def _load_tokenizer(tokenizer: Any, folder: Path | None) -> Any:
    if tokenizer is not None and not isinstance(tokenizer, (str, os.PathLike)):
        return tokenizer
    from gpt2kit.tokenizer import AutoTokenizer

    source = tokenizer if tokenizer is not None else folder
    assert source is not None  # the caller has seen to one of them
    return AutoTokenizer.from_pretrained(source)


def _refuse_loading_options(model: Any, how: dict[str, Any]) -> None:
    """Raise GenerationError when options of loading come with something that is loaded already."""
    for name, value in how.items():
        if value not in (None, False, "auto"):
            raise GenerationError(
                f"{name}={value!r} is for loading a model by name; {model!r} is loaded already"
            )
