"""Token healing over tensors: prompts whose last tokens are chosen again; see generation/healing.py."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gpt2kit.config import GenerationConfig
from gpt2kit.engine.torch import TorchEngine
from gpt2kit.errors import GenerationError
from gpt2kit.generation.healing import heal_prompts
from gpt2kit.generation.protocol import Engine
from gpt2kit.model.gpt2 import GPT2WithLMHead
from gpt2kit.torch_generation.engines import choose_engine
from gpt2kit.torch_generation.prompts import Prompts, prepare


@torch.no_grad()
def heal_tokens(model: GPT2WithLMHead, input_ids: Tensor, tokenizer: Any = None) -> Tensor:
    """Return input_ids (B, T) with the last token of each row chosen again.

    Padding, of the tokenizer's pad_token_id where that is no end token, stays where it is.
    """
    own: GenerationConfig | None = getattr(model, "generation_config", None)
    pads = GenerationConfig(
        pad_token_id=getattr(tokenizer, "pad_token_id", None),
        eos_token_id=own.eos_token_id if own is not None else None,
    )
    prompts = prepare({"input_ids": input_ids}, pads, model.config, model.device)
    engine = choose_engine(model) or TorchEngine(model, allow_training=True)
    return healed(prompts, engine, tokenizer).padded


def healed(prompts: Prompts, engine: Engine, tokenizer: Any) -> Prompts:
    """Return the prompts of generate(token_healing=True); raises GenerationError when they are no plain ids."""
    if tokenizer is None:
        raise GenerationError(
            " When generating with token healing, you must pass the model's tokenizer to the `tokenizer` argument"
        )
    if prompts.past is not None or prompts.embeds is not None:
        given = "past_key_values" if prompts.past is not None else "inputs_embeds"
        raise GenerationError(f"token_healing replaces a token of input_ids and does not go with {given}")
    ids = heal_prompts(engine, tokenizer, prompts.ids)
    padded = prompts.padded.clone()
    for index, row in enumerate(ids):
        padded[index, int(prompts.mask[index].nonzero()[-1])] = row[-1]
    return replace(prompts, padded=padded, ids=ids)
