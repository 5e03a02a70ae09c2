"""quantize_folder: a model as a packed folder, whose weights lie in the order of memory: to load it is to map it.

docs/formats.md specifies the format; engine/quantize.py reads it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gpt2kit.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from gpt2kit.checkpoint.names import LM_HEAD, head_shapes, trunk_shapes
from gpt2kit.config import GenerationConfig
from gpt2kit.engine.native import available_threads, unsupported_reason
from gpt2kit.engine.quantize import quantized_weights, write_packed
from gpt2kit.errors import EngineError

FORMATS = ("int8", "bf16")
# What describes the tokenizer is copied as it is.
_TOKENIZER_FILES = (
    *("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
)


def quantize_folder(
    model: str | os.PathLike[str] | Checkpoint,
    output: str | os.PathLike[str],
    format: str = "int8",
    **checkpoint_options: Any,
) -> list[str]:
    """Write a model's weights in another format, with its configuration and tokenizer; give the files' names.

    model: a folder, a hub name, or an open Checkpoint.  output: the folder to write; other files in it stay.
    format: "int8" for a packed folder, which load_engine maps; "bf16" for an ordinary one in bfloat16.
    checkpoint_options: revision, allow_pickle, token, ... of open_checkpoint.

    Raises EngineError for an unknown format, a model that is quantised already or that the native engine cannot
    run, and for output that is the folder of the model; CheckpointError; OSError.
    """
    if format not in FORMATS:
        raise EngineError(f"format is {format!r}; it must be one of {', '.join(map(repr, FORMATS))}")
    checkpoint = model if isinstance(model, Checkpoint) else open_checkpoint(model, **checkpoint_options)
    config, folder = checkpoint.config, Path(output)
    if hasattr(config, "quantization_config"):
        raise EngineError(f"{checkpoint.folder} is quantised already; give the folder that it was made of")
    if folder.exists() and checkpoint.folder.exists() and folder.samefile(checkpoint.folder):
        raise EngineError(f"{folder} is the model's own folder; give another one for the output")
    known = trunk_shapes(config).keys() | head_shapes(config).keys()
    names = [name for name in checkpoint.names() if name in known]
    if config.tie_word_embeddings and LM_HEAD in names:
        names.remove(LM_HEAD)
    generation_config = GenerationConfig.for_model(checkpoint.folder)
    if format == "bf16":
        weights = {name: checkpoint.float32(name) for name in names}
        written = save_checkpoint(folder, weights, config, dtypes="BF16", generation_config=generation_config)
    else:
        reason = unsupported_reason(config)
        if reason is not None:
            raise EngineError(f"the native engine cannot run this model: {reason}")
        weights = quantized_weights(checkpoint, names, available_threads())
        written = write_packed(folder, checkpoint, weights, format, generation_config)
    import shutil

    for name in _TOKENIZER_FILES:
        if (checkpoint.folder / name).is_file():
            shutil.copyfile(checkpoint.folder / name, folder / name)
            written.append(name)
    return written
