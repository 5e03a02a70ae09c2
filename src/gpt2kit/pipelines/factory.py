"""pipeline(): load what a task needs and put it together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gpt2kit.errors import GenerationError
from gpt2kit.generation import Engine
from gpt2kit.pipelines.device import choose_device
from gpt2kit.pipelines.text_generation import TextGenerationPipeline

TASKS = {"text-generation": TextGenerationPipeline}


def pipeline(
    task: str | None = None,
    model: Any = None,  # a folder, a hub name, an open Checkpoint or an engine
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
    tokenizer: only needed when `model` is an object. revision to allow_pickle: as for from_pretrained.
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
    place = choose_device(device if device_map is None else device_map)
    folder: Path | None = getattr(model, "folder", None)
    if model is None:
        from gpt2kit import builtin

        folder = builtin.path()
    elif isinstance(model, (str, os.PathLike)):
        from gpt2kit.hub import resolve_folder

        folder = resolve_folder(
            model,
            revision=revision,
            subfolder=subfolder,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
            variant=variant,
            allow_pickle=allow_pickle,
        )
    weights = {"variant": variant, "allow_pickle": allow_pickle}
    return TextGenerationPipeline(
        _load_engine(
            model, folder, place, dtype=dtype, quant=quant, threads=threads, engine=engine, **weights
        ),
        _load_tokenizer(tokenizer, folder),
        **options,
    )


def _load_engine(model: Any, folder: Path | None, place: str, **how: Any) -> Engine:
    if hasattr(model, "new_sequence"):
        engine: Engine = model
        return engine
    from gpt2kit.engine import load_engine

    return load_engine(model if folder is None or hasattr(model, "tensor") else folder, device=place, **how)


def _load_tokenizer(tokenizer: Any, folder: Path | None) -> Any:
    if tokenizer is not None and not isinstance(tokenizer, (str, os.PathLike)):
        return tokenizer
    source = tokenizer if tokenizer is not None else folder
    if source is None:
        raise GenerationError("model is an object, so its tokenizer is not known; pass tokenizer=")
    from gpt2kit.tokenizer import AutoTokenizer

    return AutoTokenizer.from_pretrained(source)
