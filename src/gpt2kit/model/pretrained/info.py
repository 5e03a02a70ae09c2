"""What loading found: which weights were missing, left over or of another shape, in one line."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]
_LAYER = re.compile(r"(?<=\bh\.)\d+(?=\.)")


@dataclass
class LoadingInfo:
    """missing_keys and mismatched_keys bear the model's names, unexpected_keys the file's.

    mismatched_keys: (name, shape in the file, shape in the model).
    """

    missing_keys: set[str] = field(default_factory=set)
    unexpected_keys: set[str] = field(default_factory=set)
    mismatched_keys: set[tuple[str, Shape, Shape]] = field(default_factory=set)

    def random_names(self) -> list[str]:
        """Names of the weights that the file could not give, sorted."""
        return sorted(self.missing_keys | {name for name, _, _ in self.mismatched_keys})

    def to_dict(self) -> dict[str, Any]:
        """Give the dict of `output_loading_info`; error_msgs is empty, as an error is raised instead."""
        return {
            "missing_keys": self.missing_keys,
            "unexpected_keys": self.unexpected_keys,
            "mismatched_keys": self.mismatched_keys,
            "error_msgs": [],
        }

    def in_one_line(self) -> str:
        """Say what is remarkable, or nothing: ""."""
        parts = []
        if self.missing_keys:
            parts.append(f"{_folded(self.missing_keys)} missing")
        if self.mismatched_keys:
            shapes = (f"{name} {there} there and {here} here" for name, there, here in self.mismatched_keys)
            parts.append(f"of another shape: {', '.join(sorted(shapes))}")
        if parts:
            parts.append("drawn at random, train before use")
        if self.unexpected_keys:
            parts.append(f"{_folded(self.unexpected_keys)} not used")
        return "; ".join(parts)


def _folded(names: Iterable[str]) -> str:
    """List names, those that differ in the layer only as one: h.{2-5}.ln_1.bias."""
    layers: dict[str, list[int]] = {}
    for name in names:
        found = _LAYER.search(name)
        layers.setdefault(_LAYER.sub("*", name, count=1), []).extend([int(found[0])] if found else [])
    return ", ".join(name.replace("*", _range(sorted(layers[name])), 1) for name in sorted(layers))


def _range(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    if numbers and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{{{numbers[0]}-{numbers[-1]}}}"
    return f"{{{','.join(map(str, numbers))}}}"
