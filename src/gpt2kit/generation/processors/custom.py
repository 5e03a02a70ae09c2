"""What a call adds to the processors of the options; no numpy here, as most calls add nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2kit.generation.processors.guidance import Guidance
    from gpt2kit.generation.processors.scores import LogitsProcessor

# (prompt index, ids of the whole sequence) -> ids that may follow
AllowedTokens = Callable[[int, list[int]], Sequence[int]]


@dataclass(frozen=True)
class Custom:
    """What a call adds to the processors of the options.

    processors: callables (token_ids, scores) -> scores. prefix_allowed_tokens_fn: says which tokens may follow.
    guidance: the unconditional rows, when guidance_scale is not 1.
    """

    processors: Sequence[LogitsProcessor] = ()
    prefix_allowed_tokens_fn: AllowedTokens | None = None
    guidance: Guidance | None = None
