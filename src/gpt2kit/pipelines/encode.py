"""Texts to rows of token ids that a model can take, or one clear error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpt2kit.errors import PipelineError


def encode_texts(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str | None], n_positions: int, **options: Any
) -> list[list[int]]:
    """Return the ids of each text, or of each text with its pair.

    options: of the tokenizer's call. Raises PipelineError for a text without tokens or with too many.
    """
    truncation = options.get("truncation")
    if truncation not in (None, False, "do_not_truncate") and options.get("max_length") is None:
        options["max_length"] = max_tokens(tokenizer, n_positions)
    rows = []
    for index, (text, pair) in enumerate(zip(texts, pairs, strict=True)):
        both = (text,) if pair is None else (text, pair)
        ids: list[int] = tokenizer(*both, **options)["input_ids"]
        check_row(ids, index, n_positions)
        rows.append(ids)
    return rows


def check_row(ids: Sequence[int], index: int, n_positions: int) -> None:
    """Raise PipelineError for a row that a model cannot take."""
    if not ids:
        raise PipelineError(f"input {index} is empty: there is no token to judge; leave it out")
    if len(ids) > n_positions:
        raise PipelineError(
            f"input {index} has {len(ids)} tokens; n_positions is {n_positions}; shorten it, or pass "
            "truncation=True"
        )


def max_tokens(tokenizer: Any, n_positions: int) -> int:
    """Return how many tokens both the tokenizer and the model take."""
    return min(int(getattr(tokenizer, "model_max_length", n_positions)), n_positions)
