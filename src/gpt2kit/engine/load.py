"""load_engine(): from a model's name to an engine that runs it."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from gpt2kit.checkpoint import Checkpoint, open_checkpoint
from gpt2kit.checkpoint.dtypes import DTYPE_OPTIONS
from gpt2kit.config import GenerationConfig, GPT2Config
from gpt2kit.engine.compute import Compute
from gpt2kit.engine.native import KvCacheDtype, NativeEngine, unsupported_reason
from gpt2kit.engine.quantize import check_quant
from gpt2kit.errors import EngineError, MissingDependencyError
from gpt2kit.generation.protocol import Engine

logger = logging.getLogger(__name__)


def load_engine(
    model: str | Path | Checkpoint,
    dtype: str = "auto",
    quant: str | None = None,
    threads: int | None = None,
    engine: Literal["auto", "native", "torch"] = "auto",
    *,
    quant_cache: bool = True,
    compute: Compute | None = None,
    kv_cache_dtype: KvCacheDtype | None = None,
    device: str | int | None = None,
    head_scan: bool | None = None,
    **checkpoint_options: Any,
) -> Engine:
    """Open a model and return an engine for it.

    model: a folder, a hub name such as "gpt2", or an open Checkpoint.
    dtype: of the weights: "float32", "bfloat16", "float16", or "auto". The native engine computes in float32
        over weights of any of them; "auto" uses those of the file as they are. The torch engine computes in
        dtype too; "auto" is float32 on the CPU and the file's elsewhere.
    quant: None, or "int8": the native engine holds every matrix, the embeddings and the head among them, in 8
        bits, which takes a quarter of the memory and of the time of float32 for a token. Needs dtype "auto".
    threads: for the native engine, by default every processor that the process may use.
    engine: "native" (C++, CPU), "torch", or "auto": native unless the device or the model forbids it.
    quant_cache: keep what quant makes of a large model for the next load, in a folder that the environment variable
        GPT2KIT_CACHE names or, set to "off", denies; see docs/quantization.md.
    compute: for the native engine, what activations become before each product with a matrix. "auto" (None) is
        "float32" for matrices of floats; "bfloat16" needs dtype="bfloat16" or a file that is. int8 matrices take
        "int16" or "int8", by default 8 bits in prompts and 16 in what is generated; see NativeEngine.
    kv_cache_dtype: for the native engine: what keys and values are kept in, "float32", its default, "bfloat16" or
        "int8".
    head_scan: for the native engine: False to do without the copy of the head in 8 bits by which generate() finds the
        same ids sooner, once it has made some 30 tokens; see NativeEngine.
    device: None or "cpu" for the CPU; anything else is a torch device and needs the torch engine.
    checkpoint_options: revision, subfolder, token, ... of open_checkpoint.

    Raises EngineError for a combination that cannot run and MissingDependencyError where torch is needed
    and absent; CheckpointError or HubError for a model that cannot be read.
    """
    if dtype not in DTYPE_OPTIONS:
        raise EngineError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPE_OPTIONS)}")
    check_quant(quant)
    checkpoint = model if isinstance(model, Checkpoint) else open_checkpoint(model, **checkpoint_options)
    generation_config = GenerationConfig.for_model(checkpoint.folder)
    if choose_engine(checkpoint.config, engine, device=device) == "native":
        return NativeEngine.from_checkpoint(
            checkpoint,
            dtype=dtype,
            quant=quant,
            quant_cache=quant_cache,
            threads=threads,
            compute=compute,
            kv_cache_dtype=kv_cache_dtype if kv_cache_dtype is not None else "float32",
            generation_config=generation_config,
            head_scan=head_scan is not False,
        )
    from gpt2kit.engine.torch import TorchEngine

    if quant is not None:
        raise EngineError(
            f"quant={quant!r} is for the native engine; for the torch engine load a folder that bitsandbytes or "
            "save_pretrained quantised"
        )
    if threads is not None:
        raise EngineError(
            "threads is for the native engine; call torch.set_num_threads() for the torch engine"
        )
    if head_scan is not None:
        raise EngineError("head_scan is for the native engine; leave it out for the torch engine")
    if compute not in (None, "auto"):
        raise EngineError("compute is for the native engine; the torch engine computes in dtype")
    if kv_cache_dtype is not None:
        raise EngineError(
            "kv_cache_dtype is for the native engine; the torch engine keeps keys and values in dtype"
        )
    return TorchEngine.from_checkpoint(
        checkpoint,
        dtype=dtype,
        device=device if device is not None else "cpu",
        generation_config=generation_config,
    )


def choose_engine(
    config: GPT2Config, engine: str = "auto", *, device: str | int | None = None
) -> Literal["native", "torch"]:
    """Return which engine runs a model; arguments as for load_engine, whose errors it raises."""
    if engine not in ("auto", "native", "torch"):
        raise EngineError(f"engine is {engine!r}; it must be 'auto', 'native' or 'torch'")
    is_cpu = device is None or str(device) == "cpu"

    if engine == "auto":
        reason = unsupported_reason(config)
        if not is_cpu:
            reason = f"device is {device!r}"
        engine = "native" if reason is None else "torch"
        logger.info("engine: %s%s", engine, f" ({reason})" if reason else "")
    if engine == "native":
        if not is_cpu:
            raise EngineError(
                f"the native engine runs on the CPU, not on device {device!r}; use engine='torch'"
            )
        return "native"
    if find_spec("torch") is None:
        raise MissingDependencyError(
            "engine 'torch' needs PyTorch, which is not installed; pip install 'gpt2kit[torch]'"
        )
    return "torch"
