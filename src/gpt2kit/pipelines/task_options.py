"""Options of a call of the tasks that judge texts: one frozen dataclass a task, with what they share here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

from gpt2kit.errors import PipelineError

Own = TypeVar("Own", bound="TaskOptions")


@dataclass(frozen=True)
class TaskOptions:
    """What every one of these tasks takes.

    batch_size: how many inputs of a generator or dataset are taken at once; a list is batched by length.
    num_workers: accepted and without effect: texts are tokenized in this process, on several threads.
    """

    task: ClassVar[str] = ""
    # Fields for which None says something; elsewhere it means that the option is not given.
    none_speaks: ClassVar[frozenset[str]] = frozenset()

    batch_size: int = 1
    num_workers: int = 0

    def updated(self: Own, given: Mapping[str, Any]) -> Own:
        """Return these options with others on top. Raises PipelineError for unknown names and wrong values."""
        names = [field.name for field in fields(self)]
        for name in given:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]}?" if near else f"its options are {', '.join(names)}"
                raise PipelineError(f"{self.task} has no option {name!r}; {hint}")
        result = replace(self, **{k: v for k, v in given.items() if v is not None or k in self.none_speaks})
        result.check()
        return result

    def check(self) -> None:
        """Raise PipelineError for a wrong value."""
        self.check_integer("batch_size", 1)
        self.check_integer("num_workers", 0)

    def check_integer(self, name: str, at_least: int) -> None:
        """Raise PipelineError unless a field is None or an int of at least this."""
        value = getattr(self, name)
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            raise PipelineError(f"{name} must be an int of at least {at_least}, got {value!r}")

    def check_boolean(self, *names: str) -> None:
        """Raise PipelineError unless fields are True or False."""
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise PipelineError(f"{name} must be True or False, got {value!r}")


@dataclass(frozen=True)
class TextOptions(TaskOptions):
    """What the tasks take that hand options to the tokenizer.

    truncation, max_length, add_special_tokens, split_special_tokens, add_prefix_space: as for a tokenizer's
        call; truncation without max_length cuts at what the model holds.
    padding: accepted and without effect: rows are never padded.
    """

    truncation: Any = None
    max_length: int | None = None
    add_special_tokens: bool | None = None
    split_special_tokens: bool | None = None
    add_prefix_space: bool | None = None
    padding: Any = None

    def tokenizer_options(self) -> dict[str, Any]:
        """Return what the tokenizer is given, without what nobody set."""
        names = [field.name for field in fields(TextOptions)]
        own = {field.name for field in fields(TaskOptions)} | {"padding"}
        return {
            name: value for name in names if name not in own and (value := getattr(self, name)) is not None
        }
