"""FeatureExtractionPipeline: the hidden states of a text's tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy.typing as npt

from gpt2kit.errors import MissingDependencyError, PipelineError
from gpt2kit.pipelines.encode import encode_texts
from gpt2kit.pipelines.judging import JudgingPipeline
from gpt2kit.pipelines.steps import as_tensors
from gpt2kit.pipelines.task_options import TextOptions


@dataclass(frozen=True)
class FeatureOptions(TextOptions):
    """Options of feature-extraction, with those of TextOptions.

    return_tensors: False for nested lists; True or "pt" for torch tensors; "np" for numpy arrays.
    tokenize_kwargs: options for the tokenizer as a dict; none of them may be given beside it too.
    """

    task: ClassVar[str] = "feature-extraction"

    return_tensors: bool | str = False
    tokenize_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def updated(self, given: Mapping[str, Any]) -> FeatureOptions:
        """Return these options with others on top."""
        inner = given.get("tokenize_kwargs") or {}
        twice = sorted(inner.keys() & given.keys())
        if twice:
            raise PipelineError(
                f"{twice[0]} parameter defined twice (given as keyword argument as well as in tokenize_kwargs)"
            )
        merged = {name: value for name, value in given.items() if name != "tokenize_kwargs"} | dict(inner)
        return super().updated(merged)

    def check(self) -> None:
        """Raise PipelineError for a wrong value."""
        super().check()
        if self.return_tensors not in (True, False, "np", "pt"):
            raise PipelineError(
                f"return_tensors must be True, False, 'np' or 'pt', got {self.return_tensors!r}"
            )
        if self.padding == "max_length":
            raise PipelineError(
                "padding='max_length' is not supported: padding has no features; leave it out"
            )


class FeatureExtractionPipeline(JudgingPipeline):
    """Gives the hidden states after the last layer norm, whatever head the model has.

    A text gives [1][T][n_embd]: Transformers' form, a batch of one.

        >>> from gpt2kit import pipeline
        >>> features = pipeline("feature-extraction")("It is a truth")
        >>> len(features), len(features[0][0])
        (1, 512)
    """

    task = "feature-extraction"
    options_class = FeatureOptions
    after_options = ("return_tensors",)

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Give the features of one text, a list, or what can be iterated over; see FeatureOptions."""
        return self._run(inputs, options)

    def preprocess(self, inputs: Any, **options: Any) -> Any:
        """Return the ids and the mask of a text, as tensors (1, T)."""
        [text] = self._texts([inputs])
        how = self.options_class().updated(options).tokenizer_options()
        return as_tensors(encode_texts(self.tokenizer, [text], [None], self.config.n_positions, **how)[0])

    def postprocess(self, model_outputs: Any, **options: Any) -> Any:
        """Return the first of the model's outputs in the form asked for."""
        chosen = self.options_class().updated(options)
        assert isinstance(chosen, FeatureOptions)
        return _in_form(model_outputs[0].float().numpy(), chosen.return_tensors)

    def _judge(self, inputs: list[Any], options: FeatureOptions) -> list[Any]:
        texts = self._texts(inputs)
        rows = encode_texts(
            self.tokenizer, texts, [None] * len(texts), self.config.n_positions, **options.tokenizer_options()
        )
        return [_in_form(array[None], options.return_tensors) for array in self.network.run(rows)]


def _in_form(array: npt.NDArray[Any], return_tensors: bool | str) -> Any:
    """Return features (1, T, C) as they are asked for."""
    if return_tensors == "np":
        return array
    if return_tensors:
        try:
            import torch
        except ImportError:
            raise MissingDependencyError(
                "return_tensors=True gives torch tensors, and torch is not installed; use "
                "return_tensors='np', or pip install 'gpt2kit[torch]'"
            ) from None
        return torch.from_numpy(array)
    return array.tolist()
