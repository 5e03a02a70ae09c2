"""The model that a command runs: its options, and loading it with its tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gpt2kit.cli.console import notice
from gpt2kit.cli.options import compute_option, kv_cache_option

if TYPE_CHECKING:
    from gpt2kit.pipelines import Pipeline, TextGenerationPipeline

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--device", metavar="DEVICE", help="cpu, or the number or name of an accelerator [cpu]."),
    click.option(
        "--dtype", default="auto", metavar="DTYPE", help="auto, float32, bfloat16 or float16 [auto]."
    ),
    click.option("--quant", type=click.Choice(["int8"]), help="Hold the weights in 8 bits."),
    compute_option,
    kv_cache_option,
    click.option("--engine", type=click.Choice(["auto", "native", "torch"]), default="auto", help="[auto]"),
    click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads of the native engine."),
    click.option("--revision", metavar="REV", help="Branch, tag or commit of a model on the hub."),
    click.option(
        "--allow-pickle", is_flag=True, help="Also read pytorch_model.bin; only for files you trust."
    ),
)


def engine_options(command: Command) -> Command:
    """Add the options of load_model, --device to --allow-pickle."""
    return reduce(lambda inner, option: option(inner), reversed(_OPTIONS), command)


def load_model(model: str | None, given: dict[str, Any]) -> TextGenerationPipeline:
    """Load a model, the built-in one for None, and its tokenizer; the pipeline holds both.

    given: the command's options, with those of engine_options and `quiet`.
    """
    pipe: TextGenerationPipeline = load_pipeline("text-generation", model, given)
    return pipe


def load_pipeline(task: str, model: str | None, given: dict[str, Any], **options: Any) -> Any:
    """Do as load_model for another task; options are the pipeline's."""
    from gpt2kit.pipelines import pipeline

    if model is None and not given["quiet"]:
        notice(
            "no --model given: using the small built-in model; "
            "-m gpt2 takes the real one (a 0.5 GB download, once)"
        )
    return pipeline(
        task,
        model=model,
        device=given["device"],
        dtype=given["dtype"],
        quant=given["quant"],
        compute=given["compute"],
        engine=given["engine"],
        threads=given["threads"],
        kv_cache_dtype=given["kv_cache_dtype"],
        revision=given["revision"],
        allow_pickle=given["allow_pickle"],
        **options,
    )


def engine_name(pipe: Pipeline) -> str:
    """Return "native" or "torch"."""
    engine = getattr(pipe, "engine", None) or getattr(pipe.model, "engine", None)
    return "torch" if engine is None else type(engine).__name__.removesuffix("Engine").lower()
