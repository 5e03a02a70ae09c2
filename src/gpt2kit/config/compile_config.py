"""CompileConfig: settings of torch.compile, kept so that scripts and configurations carry over."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class CompileConfig:
    """How torch.compile would compile the forward pass; Transformers' names and defaults. Never saved."""

    fullgraph: bool = False
    dynamic: bool | None = None
    backend: str | Callable[..., Any] = "inductor"
    mode: str = "reduce-overhead"
    options: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all settings."""
        return copy.deepcopy(self.__dict__)
