"""The prompts and negative prompts of a call, checked before any work."""

from __future__ import annotations

from collections.abc import Sequence

from gpt2kit.config import GenerationConfig
from gpt2kit.errors import GenerationError
from gpt2kit.generation.protocol import Engine


def negative_prompts_of(
    engine: Engine,
    prompts: list[list[int]],
    negative_prompts: Sequence[Sequence[int]] | None,
    merged: GenerationConfig,
) -> list[list[int]]:
    """Return one negative prompt for each prompt when there is guidance, and none otherwise."""
    if merged.guidance_scale in (None, 1.0):
        if negative_prompts is not None:
            raise GenerationError("negative_prompt_ids only act with a guidance_scale other than 1; set one")
        return []
    if negative_prompts is None:
        return [prompt[-1:] for prompt in prompts]
    checked = checked_prompts(engine, negative_prompts, merged, what="negative prompt")
    if len(checked) == 1:
        return checked * len(prompts)
    if len(checked) != len(prompts):
        raise GenerationError(
            f"negative_prompt_ids has {len(checked)} rows for {len(prompts)} prompts; give one for each, or one"
        )
    return checked


def checked_prompts(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    merged: GenerationConfig,
    what: str = "prompt",
    *,
    may_be_empty: bool = False,
) -> list[list[int]]:
    vocab_size = engine.config.vocab_size
    checked = []
    for index, prompt in enumerate(prompts):
        ids = [int(token_id) for token_id in prompt]
        for token_id in ids:
            if not 0 <= token_id < vocab_size:
                raise GenerationError(
                    f"{what} {index} holds token id {token_id}; the vocabulary has ids 0 to {vocab_size - 1}"
                )
        if not ids and not may_be_empty:
            bos = merged.bos_token_id if merged.bos_token_id is not None else engine.config.bos_token_id
            if bos is None:
                raise GenerationError(f"{what} {index} is empty and there is no bos_token_id to start from")
            ids = [bos]
        checked.append(ids)
    return checked
