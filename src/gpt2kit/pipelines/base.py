"""What every pipeline is: a model, its tokenizer, and how both are shown and saved."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gpt2kit.checkpoint import Checkpoint
from gpt2kit.config import GPT2Config
from gpt2kit.errors import GPT2Warning, PipelineError
from gpt2kit.pipelines.models import moved
from gpt2kit.pipelines.steps import has_own_steps, on_device, run_steps, torch_module

ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}


class Pipeline:
    """A model with its tokenizer; calling it turns inputs into results.

    model: a torch model, or what runs it: an engine, with a head where the task has one.
    tokenizer: of the same model.  checkpoint: where the model was read from, or None. device: moves a torch model.
    options: defaults for every call, and what Transformers' constructors take beside them: see without_others().

    A pipeline of your own is a subclass with _sanitize_parameters, preprocess, _forward and postprocess, or a
    subclass of a task's pipeline with one of them; it runs as steps.py says.
    """

    task = ""
    framework = "pt"

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        checkpoint: Checkpoint | None = None,
        device: Any = None,
        **options: Any,
    ) -> None:
        if tokenizer is None:
            raise PipelineError("model is an object, so its tokenizer is not known; pass tokenizer=")
        self.model = moved(model, device)
        self.tokenizer = tokenizer
        self.checkpoint = checkpoint
        # Options of the constructor, for pipelines that run step by step.
        self.step_defaults = without_others(self, options)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Return the result of one input, a list for a list, an iterator for a generator or dataset."""
        if len(args) != 1 and "inputs" not in options:
            raise PipelineError(
                f"{type(self).__name__} takes one argument that is no option, got {len(args)}"
            )
        inputs = args[0] if args else options.pop("inputs")
        return run_steps(self, inputs, _is_no_collection, options)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Return options of a call as those of preprocess, _forward and postprocess."""
        raise self._lacks("_sanitize_parameters")

    def preprocess(self, inputs: Any, **options: Any) -> Any:
        """Return what the model takes, a mapping, for one input; or yield several."""
        raise self._lacks("preprocess")

    def _forward(self, model_inputs: Any, **options: Any) -> Any:
        """Return what the model makes of a step's inputs; called through forward()."""
        return torch_module(self)(**model_inputs)

    def forward(self, model_inputs: Any, **options: Any) -> Any:
        """Run _forward without gradients, on the model's device, and bring its results to the CPU."""
        import torch

        model = torch_module(self)
        with torch.no_grad():
            outputs = self._forward(on_device(model_inputs, model.device), **options)
        return on_device(outputs, torch.device("cpu"))

    def postprocess(self, model_outputs: Any, **options: Any) -> Any:
        """Return the result of what _forward gave."""
        raise self._lacks("postprocess")

    def _lacks(self, step: str) -> NotImplementedError:
        return NotImplementedError(
            f"{type(self).__name__} needs a method {step}; see gpt2kit.pipelines.Pipeline"
        )

    @property
    def config(self) -> GPT2Config:
        """The model's configuration."""
        config: GPT2Config = self.model.config
        return config

    @property
    def device(self) -> Any:
        """The torch device of a torch model, else "cpu"."""
        return getattr(self.model, "device", "cpu")

    @property
    def dtype(self) -> Any:
        """The torch dtype of a torch model, else "float32"."""
        return getattr(self.model, "dtype", "float32")

    @property
    def torch_dtype(self) -> Any:
        """dtype under its name in Transformers 4."""
        return self.dtype

    def ensure_tensor_on_device(self, **inputs: Any) -> dict[str, Any]:
        """Return the inputs with their tensors on the model's device."""
        return {name: on_device(value, self.device) for name, value in inputs.items()}

    def transform(self, X: Any) -> Any:
        """Call the pipeline; scikit-learn's name for it."""
        return self(X)

    def predict(self, X: Any) -> Any:
        """Call the pipeline; scikit-learn's name for it."""
        return self(X)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """Write the model and its tokenizer into a folder.

        options: of the model's save_pretrained, or of save_checkpoint for a model that was read by name: its
        weights are written as they were stored. Raises PipelineError for an engine that was given as an
        object: it does not know its files.
        """
        if hasattr(self.model, "save_pretrained"):
            self.model.save_pretrained(save_directory, **options)
        elif self.checkpoint is not None:
            _save_checkpoint(self.checkpoint, save_directory, options)
        else:
            raise PipelineError(
                "the pipeline was made from an engine, which has no files to save; make it from a folder or a "
                "torch model"
            )
        self.tokenizer.save_pretrained(save_directory)

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Publish what save_pretrained writes as one commit; options of the model's push_to_hub. Raises HubError."""
        from gpt2kit.hub import push_saved

        def save(folder: Path) -> list[Path]:
            self.save_pretrained(folder)
            return sorted(folder.iterdir())

        return push_saved(save, repo_id, **{"commit_message": "Upload pipeline", **options})

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={type(self.model).__name__}, device={str(self.device)!r})"


def without_others(pipe: Pipeline, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a pipeline's constructor without those that only Transformers has.

    task: the pipeline's own, or the name of a subclass's. framework: "pt". torch_dtype, dtype: no effect, as the
    model has one; another is told by a warning. modelcard, args_parser and binary_output have no effect; processors must be None.
    Raises PipelineError for a value that cannot be meant.
    """
    rest = dict(options)
    task = rest.pop("task", None)
    if task not in (None, "", pipe.task, *_other_names(pipe.task)):
        if not has_own_steps(type(pipe)):
            raise PipelineError(f"task is {task!r}; {type(pipe).__name__} is for {pipe.task!r}")
        pipe.task = task
    processors = ("feature_extractor", "image_processor", "video_processor", "processor")
    refuse_processors(**{name: rest.pop(name, None) for name in processors})
    check_framework(rest.pop("framework", None))
    for name in ("torch_dtype", "dtype"):
        wanted = str(rest.pop(name, None)).removeprefix("torch.")
        if wanted not in ("None", "auto", str(pipe.dtype).removeprefix("torch.")):
            warnings.warn(
                f"{name}={wanted!r} does not change a model that is loaded already: it stays {pipe.dtype}; load it "
                "so, or call model.to()",
                GPT2Warning,
                stacklevel=4,
            )
    for name in ("modelcard", "args_parser", "binary_output"):
        rest.pop(name, None)
    return rest


def refuse_processors(**processors: Any) -> None:
    """Raise PipelineError for a processor of images or sounds."""
    for name, value in processors.items():
        if value is not None:
            raise PipelineError(f"{name}={value!r:.80} is not supported: GPT-2 reads text; leave it out")


def check_framework(framework: str | None) -> None:
    """Raise PipelineError for the name of another framework than torch."""
    if framework not in (None, "pt"):
        raise PipelineError(f"framework={framework!r} is not supported: leave it out, or give 'pt'")


def _other_names(task: str) -> tuple[str, ...]:
    return tuple(alias for alias, name in ALIASES.items() if name == task)


def _is_no_collection(item: Any) -> bool:
    """Tell whether an input of a pipeline of unknown kind is one: no list, generator or dataset."""
    return isinstance(item, (str, bytes, Mapping)) or not (
        isinstance(item, Iterable) or (hasattr(item, "__len__") and hasattr(item, "__getitem__"))
    )


def _save_checkpoint(
    checkpoint: Checkpoint, save_directory: str | os.PathLike[str], options: dict[str, Any]
) -> None:
    from gpt2kit.checkpoint import save_checkpoint
    from gpt2kit.config import GenerationConfig

    names = checkpoint.names()
    save_checkpoint(
        save_directory,
        {name: checkpoint.tensor(name) for name in names},
        checkpoint.config,
        dtypes={name: checkpoint.info(name).dtype for name in names},
        **options,
    )
    generation_config = GenerationConfig.for_model(checkpoint.folder)
    if generation_config is not None:
        generation_config.save_pretrained(save_directory)
