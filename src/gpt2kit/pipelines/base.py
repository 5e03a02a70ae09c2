"""What every pipeline is: a model, its tokenizer, and how both are shown and saved."""

from __future__ import annotations

import os
from typing import Any

from gpt2kit.checkpoint import Checkpoint
from gpt2kit.config import GPT2Config
from gpt2kit.errors import PipelineError


class Pipeline:
    """A model with its tokenizer; calling it turns inputs into results.

    model: a torch model, or what runs it: an engine, with a head where the task has one.
    tokenizer: of the same model.  checkpoint: where the model was read from, or None.
    """

    task = ""

    def __init__(self, model: Any, tokenizer: Any, checkpoint: Checkpoint | None) -> None:
        if tokenizer is None:
            raise PipelineError("model is an object, so its tokenizer is not known; pass tokenizer=")
        self.model = model
        self.tokenizer = tokenizer
        self.checkpoint = checkpoint

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Return the result of one input, a list for a list, an iterator for a generator or dataset."""
        raise NotImplementedError

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

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={type(self.model).__name__}, device={str(self.device)!r})"


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
