"""Checks of what a forward pass is given, each with one clear error, and head masks in their common shape.

Shapes and types are always checked. Values are checked where they lie in this machine's memory; to look at
those on an accelerator would make it wait at each step.
"""

from typing import Any

import torch
from torch import Tensor

from gpt2kit.config import GPT2Config


def can_look_at(values: Tensor) -> bool:
    """Tell whether reading values neither waits for a device nor breaks a graph that is being compiled."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def check_tensors(**given: Any) -> None:
    """Check that what is given, by its argument's name, is a tensor or None. Raises TypeError."""
    for name, value in given.items():
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(
                f"{name} is a {type(value).__name__}; give a torch.Tensor, such as a tokenizer makes with "
                'return_tensors="pt"'
            )


def check_inputs(input_ids: Tensor | None, inputs_embeds: Tensor | None, config: GPT2Config) -> None:
    """Check that there is one of the two, of a fitting type and shape, and something in it."""
    if input_ids is not None and inputs_embeds is not None:
        raise ValueError(
            "You cannot specify both input_ids and inputs_embeds at the same time; give exactly one of them"
        )
    if input_ids is not None:
        check_ids(input_ids, "input_ids", config.vocab_size)
        given = input_ids
    elif inputs_embeds is not None:
        if not inputs_embeds.is_floating_point():
            raise ValueError(f"inputs_embeds is {inputs_embeds.dtype}; give floats (B, T, {config.n_embd})")
        if inputs_embeds.dim() < 3 or inputs_embeds.shape[-1] != config.n_embd:
            raise ValueError(
                f"inputs_embeds has the shape {tuple(inputs_embeds.shape)}; (B, T, {config.n_embd}) is needed"
            )
        given = inputs_embeds
    else:
        raise ValueError("You have to specify either input_ids or inputs_embeds, exactly one of them")
    if given.numel() == 0:
        raise ValueError(
            f"the input has the shape {tuple(given.shape)}, which is empty; give at least one token"
        )


def check_ids(ids: Tensor, name: str, limit: int) -> None:
    """Check whole numbers from 0 to limit - 1, (B, T) or more dimensions."""
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} is {ids.dtype}; give int64 or int32")
    if ids.dim() < 2:
        raise ValueError(
            f"{name} has the shape {tuple(ids.shape)}; (B, T) is needed, use unsqueeze(0) for one row"
        )
    if ids.numel() and can_look_at(ids):
        low, high = (int(bound) for bound in ids.aminmax())
        if low < 0 or high >= limit:
            raise ValueError(f"{name} holds {low if low < 0 else high}; allowed: 0 to {limit - 1}")


def checked_rows(ids: Tensor, name: str, limit: int, B: int, T: int) -> Tensor:
    """Flatten ids that go with B rows of T positions, one row for all being enough; (B or 1, T)."""
    if not ids.dim() or ids.shape[-1] != T or ids.numel() not in (T, B * T):
        raise ValueError(f"{name} has the shape {tuple(ids.shape)}; ({B}, {T}) is needed")
    ids = ids.reshape(-1, T)
    check_ids(ids, name, limit)
    return ids


def check_encoder_states(
    encoder_hidden_states: Tensor | None, encoder_attention_mask: Tensor | None, B: int, config: GPT2Config
) -> None:
    """Check what cross-attention reads, and that there is a cross-attention to read it."""
    if encoder_hidden_states is None:
        if encoder_attention_mask is not None:
            raise ValueError("encoder_attention_mask is given without encoder_hidden_states; give both")
        return
    if not config.add_cross_attention:
        raise ValueError(
            "If `encoder_hidden_states` are passed, the model has to be instantiated with cross-attention "
            "layers by setting `config.add_cross_attention=True`"
        )
    shape = tuple(encoder_hidden_states.shape)
    if len(shape) != 3 or shape[0] != B or shape[2] != config.n_embd or shape[1] == 0:
        raise ValueError(f"encoder_hidden_states has the shape {shape}; ({B}, S, {config.n_embd}) is needed")


def head_masks(head_mask: Tensor | None, config: GPT2Config, like: Tensor) -> list[Tensor | None]:
    """Give each layer's factors, broadcasting to (B, H, T, S), of a mask of heads: 1 keeps, 0 silences.

    head_mask: (H,) for all layers, (L, H), or (L, B or 1, H or 1, T or 1, S or 1), where H counts pruned heads
    too. like: the hidden states (B, T, C). Raises ValueError for other shapes.
    """
    n_layer, n_head = config.n_layer, config.n_head
    if head_mask is None:
        return [None] * n_layer
    shape = tuple(head_mask.shape)
    if shape == (n_head,):
        head_mask = head_mask.expand(n_layer, n_head)
    if head_mask.dim() == 2:
        head_mask = head_mask[:, None, :, None, None]  # (L, 1, H, 1, 1)
    if (
        head_mask.dim() != 5
        or head_mask.shape[0] not in (1, n_layer)
        or head_mask.shape[1] not in (1, like.shape[0])
        or head_mask.shape[2] not in (1, n_head)
        or head_mask.shape[3] not in (1, like.shape[1])
    ):
        raise ValueError(
            f"head_mask has the shape {shape}; ({n_head},), ({n_layer}, {n_head}) or "
            f"({n_layer}, B, {n_head}, T, S) is needed"
        )
    head_mask = head_mask.to(like.device, like.dtype).expand(n_layer, -1, n_head, -1, -1)
    return [head_mask[i, :, config.kept_heads(i)] for i in range(n_layer)]


def check_kept(logits_to_keep: int | Tensor, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> None:
    """Check which positions of an input to keep: the last so many, 0 for all, or those of a tensor (K,)."""
    if not isinstance(logits_to_keep, Tensor):
        if not isinstance(logits_to_keep, int) or logits_to_keep < 0:
            raise ValueError(
                f"logits_to_keep is {logits_to_keep!r}; allowed: whole numbers from 0, which keeps all, or a tensor "
                "of positions"
            )
        return
    if logits_to_keep.is_floating_point():
        raise ValueError(f"logits_to_keep is {logits_to_keep.dtype}; positions are integers, convert them")
    if isinstance(input_ids, Tensor) and input_ids.dim():
        T = input_ids.shape[-1]
    elif isinstance(inputs_embeds, Tensor) and inputs_embeds.dim() > 1:
        T = inputs_embeds.shape[-2]
    else:
        return  # the trunk refuses the input
    if logits_to_keep.dtype == torch.bool:
        is_within = logits_to_keep.shape == (T,)
    elif logits_to_keep.numel() and can_look_at(logits_to_keep):
        is_within = bool(((logits_to_keep >= -T) & (logits_to_keep < T)).all())
    else:
        is_within = True
    if not is_within:
        raise ValueError(f"logits_to_keep is {logits_to_keep.tolist()}; there are positions 0 to {T - 1}")
