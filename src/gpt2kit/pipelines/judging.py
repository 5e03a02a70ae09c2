"""JudgingPipeline: what the tasks share that run a network with a head over texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpt2kit.checkpoint import Checkpoint
from gpt2kit.errors import PipelineError
from gpt2kit.pipelines.base import Pipeline
from gpt2kit.pipelines.inputs import run_inputs
from gpt2kit.pipelines.models import as_network
from gpt2kit.pipelines.steps import has_own_steps, run_steps, split_options
from gpt2kit.pipelines.task_options import TaskOptions


class JudgingPipeline(Pipeline):
    """Turns texts into judgements: options, forms of input, the network with its head.

    model: a torch model of the task's class (ours or Transformers'), or an EngineWithHead.
    device: moves a torch model. options: defaults for every call.
    """

    head: ClassVar[str | None] = None  # the name of the head's tensors
    options_class: ClassVar[type[TaskOptions]] = TaskOptions
    one_input: ClassVar[str] = "a string"
    # Options of a call that postprocess takes; the others are for preprocess.
    after_options: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        checkpoint: Checkpoint | None = None,
        device: Any = None,
        **options: Any,
    ) -> None:
        network = as_network(model, self.head, self.task, device)
        super().__init__(
            getattr(network, "model", network), tokenizer, checkpoint=checkpoint, device=None, **options
        )
        self.network = network
        self._defaults = self.options_class()
        if not has_own_steps(type(self)):
            self._defaults = self._defaults.updated(self.step_defaults)

    def _run(self, inputs: Any, given: Mapping[str, Any]) -> Any:
        """Do a call: return the result of one input, a list for a list, an iterator for anything else.

        given: options of the call. Raises PipelineError for unknown ones and for inputs that the task cannot
        take.
        """
        if has_own_steps(self):
            return run_steps(self, inputs, self._is_one, given)
        options = self._defaults.updated(given)
        return run_inputs(
            inputs,
            self._is_one,
            lambda batch: self._judge(batch, options) if batch else [],
            options.batch_size,
            self.one_input,
        )

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        self.options_class().updated(options)  # refuses what the task cannot take
        return split_options(options, self.after_options)

    def _is_one(self, item: Any) -> bool:
        return isinstance(item, str)

    def _judge(self, inputs: list[Any], options: Any) -> list[Any]:
        """Return one result for each input."""
        raise NotImplementedError

    def _label(self, index: int) -> str:
        labels = self.config.id2label
        return str(labels.get(index, f"LABEL_{index}"))

    def _texts(self, inputs: list[Any]) -> list[str]:
        for index, text in enumerate(inputs):
            if not isinstance(text, str):
                raise PipelineError(f"input {index} must be {self.one_input}, got {text!r:.80}")
        return inputs


def softmax(scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the softmax over the last axis."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))
