"""The forms that inputs come in: one, a list, or something to iterate over; and the datasets of scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gpt2kit.errors import PipelineError

# Takes a list of inputs and returns as many results.
Run = Callable[[list[Any]], list[Any]]


class Results:
    """The results of a dataset or generator, made as they are asked for; has a length if the inputs have."""

    def __init__(self, inputs: Any, run: Run, batch_size: int) -> None:
        self._inputs = inputs
        self._results = _run_batches(_each(inputs), run, batch_size)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._results)

    def __len__(self) -> int:
        return len(self._inputs)


class KeyDataset:
    """One column of a dataset of dicts: item i is dataset[i][key]."""

    def __init__(self, dataset: Any, key: str) -> None:
        self.dataset = dataset
        self.key = key

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index][self.key]


class KeyPairDataset:
    """Two columns of a dataset of dicts as text pairs for text-classification."""

    def __init__(self, dataset: Any, key1: str, key2: str) -> None:
        self.dataset = dataset
        self.key1 = key1
        self.key2 = key2

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.dataset[index]
        return {"text": row[self.key1], "text_pair": row[self.key2]}


def run_inputs(inputs: Any, is_one: Callable[[Any], bool], run: Run, batch_size: int, what: str) -> Any:
    """Return the result of one input, a list of results for a list or tuple, Results for what can be iterated.

    what: what one input must be, for the message. Raises PipelineError for anything else.
    """
    if is_one(inputs):
        return run([inputs])[0]
    if isinstance(inputs, (list, tuple)):
        return run(list(inputs))
    is_dataset = hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__")
    if isinstance(inputs, (str, bytes, dict)) or not (isinstance(inputs, Iterable) or is_dataset):
        raise PipelineError(
            f"the input must be {what}, or a list, generator or dataset of them, got {inputs!r:.80}"
        )
    return Results(inputs, run, batch_size)


def _each(inputs: Any) -> Iterator[Any]:
    """Iterate; a dataset with __len__ and __getitem__ only need not raise IndexError at its end."""
    if isinstance(inputs, Iterable):
        yield from inputs
    else:
        for index in range(len(inputs)):
            yield inputs[index]


def _run_batches(inputs: Iterator[Any], run: Run, batch_size: int) -> Iterator[Any]:
    batch: list[Any] = []
    for item in inputs:
        batch.append(item)
        if len(batch) == batch_size:
            yield from run(batch)
            batch = []
    if batch:
        yield from run(batch)
