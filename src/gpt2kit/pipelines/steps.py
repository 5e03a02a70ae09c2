"""Steps of a user's own: preprocess, _forward and postprocess, called one after another as Transformers calls them.

A pipeline of gpt2kit's runs lists as ragged batches and has no use for them. One whose class, or which itself, has one
of these methods from elsewhere runs here instead: on a torch model, an input at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from gpt2kit.errors import PipelineError
from gpt2kit.pipelines.inputs import run_inputs

if TYPE_CHECKING:
    from gpt2kit.pipelines.base import Pipeline

_STEPS = ("_sanitize_parameters", "preprocess", "_forward", "forward", "postprocess")


def has_own_steps(pipe: type[Pipeline] | Pipeline) -> bool:
    """Tell whether a class, or a pipeline, has a step that is not gpt2kit's."""
    kind = pipe if isinstance(pipe, type) else type(pipe)
    ours = next(base for base in kind.__mro__ if base.__module__.startswith("gpt2kit."))
    replaced = any(getattr(kind, step) is not getattr(ours, step) for step in _STEPS)
    return replaced or (not isinstance(pipe, type) and any(step in vars(pipe) for step in _STEPS))


def run_steps(pipe: Pipeline, inputs: Any, is_one: Callable[[Any], bool], options: Mapping[str, Any]) -> Any:
    """Take inputs in all their forms through the steps of a pipeline.

    A preprocess that is a generator cuts an input into chunks; postprocess then gets the list of their outputs.
    batch_size: how many inputs of a generator are taken at once; num_workers has no effect.
    """
    batch_size = options.get("batch_size") or pipe.step_defaults.get("batch_size") or 1
    default_stages, given_stages = (
        pipe._sanitize_parameters(
            **{name: value for name, value in source.items() if name not in ("batch_size", "num_workers")}
        )
        for source in (pipe.step_defaults, options)
    )
    stages = [{**defaults, **given} for defaults, given in zip(default_stages, given_stages, strict=True)]

    def one(item: Any) -> Any:
        prepared = pipe.preprocess(item, **stages[0])
        if isinstance(prepared, GeneratorType):
            outputs: Any = [pipe.forward(chunk, **stages[1]) for chunk in prepared]
        else:
            outputs = pipe.forward(prepared, **stages[1])
        return pipe.postprocess(outputs, **stages[2])

    return run_inputs(inputs, is_one, lambda batch: [one(item) for item in batch], batch_size, "one input")


def split_options(
    options: Mapping[str, Any], after: tuple[str, ...], forward: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return options of a call by the step that takes them: those of preprocess, _forward and postprocess."""
    last = {name: value for name, value in options.items() if name in after}
    middle = {name: value for name, value in options.items() if name in forward}
    first = {name: value for name, value in options.items() if name not in last and name not in middle}
    return first, middle, last


def torch_module(pipe: Pipeline) -> Any:
    """Return the torch model of a pipeline. Raises PipelineError where an engine is in its place."""
    if not hasattr(pipe.model, "state_dict"):
        raise PipelineError(
            f"{type(pipe).__name__} runs step by step, on a torch model, and has a {type(pipe.model).__name__}; "
            "make the pipeline from a torch model, or with engine='torch'"
        )
    return pipe.model


def as_tensors(ids: Sequence[int]) -> dict[str, Any]:
    """Return a row of ids and its mask as tensors (1, T) of torch."""
    import torch

    row = torch.tensor([list(ids)], dtype=torch.int64)
    return {"input_ids": row, "attention_mask": torch.ones_like(row)}


def model_part(model_inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part what preprocess gave into the model's inputs and what only postprocess needs."""
    inputs = {name: model_inputs[name] for name in ("input_ids", "attention_mask") if name in model_inputs}
    return inputs, {name: value for name, value in model_inputs.items() if name not in inputs}


def on_device(values: Any, device: Any) -> Any:
    """Return what a step gave with its tensors, in mappings, lists and tuples too, on a device."""
    if hasattr(values, "to") and hasattr(values, "device"):
        return values.to(device)
    if isinstance(values, Mapping):
        moved = {name: on_device(value, device) for name, value in values.items()}
        return type(values)(**moved) if hasattr(values, "to_tuple") else moved
    if isinstance(values, (list, tuple)) and not hasattr(values, "_fields"):
        return type(values)(on_device(value, device) for value in values)
    return values
