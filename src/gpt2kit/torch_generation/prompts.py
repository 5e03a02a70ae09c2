"""What generate() is given, as ragged rows: ids without padding, and which columns they stood in.

A mask decides what is padding, on either side or in between; so a padded row gives what it gives alone.
B rows, T columns of input_ids or inputs_embeds, P positions in a cache that was given, C channels.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gpt2kit.config import GenerationConfig, GPT2Config
from gpt2kit.errors import GenerationError
from gpt2kit.generation.loop import DEFAULT_NEW_TOKENS
from gpt2kit.model.cache.base import Cache
from gpt2kit.model.inputs import check_tensors


@dataclass
class Prompts:
    """The rows to continue.

    padded: int64 (B, T) as given, what results begin with; (B, 0) when there are embeddings only.
    ids: each row's ids without padding, as far as they are known.
    mask: bool (B, P + T) on the CPU, which columns hold something.
    num_past: P. past: the cache given, (B, H, P, D). embeds: (B, T, C) in place of the ids' embeddings.
    token_type_ids: (B, P + T). encoder: encoder_hidden_states and its mask, for cross-attention, B rows each.
    head_mask: as the model's forward takes it. num_columns: T.
    """

    padded: Tensor
    ids: list[list[int]]
    mask: Tensor
    num_past: int = 0
    past: Cache | None = None
    embeds: Tensor | None = None
    token_type_ids: Tensor | None = None
    encoder: dict[str, Tensor] = field(default_factory=dict)
    head_mask: Tensor | None = None

    @property
    def torch_only(self) -> str | None:
        """Name what only the torch engine can start from, None when there is nothing of it."""
        given = {
            "past_key_values": self.past is not None,
            "inputs_embeds": self.embeds is not None,
            "token_type_ids": self.token_type_ids is not None,
            "encoder_hidden_states": bool(self.encoder),
            "head_mask": self.head_mask is not None,
        }
        return next((name for name, is_given in given.items() if is_given), None)

    @property
    def num_columns(self) -> int:
        return self.mask.shape[1] - self.num_past


def special_tokens(merged: GenerationConfig, config: GPT2Config) -> tuple[list[int], int | None]:
    """Return the end tokens, and the padding token: set, or the first end token, or None."""
    eos = merged.eos_token_id if merged.eos_token_id is not None else config.eos_token_id
    ends = list(eos) if isinstance(eos, (list, tuple)) else [] if eos is None else [eos]
    pad = merged.pad_token_id if merged.pad_token_id is not None else config.pad_token_id
    return ends, pad if pad is not None else ends[0] if ends else None


def prepare(
    given: dict[str, Any], merged: GenerationConfig, config: GPT2Config, device: torch.device
) -> Prompts:
    """Make rows of the arguments of generate() that are not None.

    input_ids (B, T): all ids, or with a cache of P positions and a mask (B, P + T) only those after them.
    Without a mask, padding is told by the padding token, unless that is an end token or does not occur.
    device: where results go when there is no tensor to tell.
    Raises ValueError for shapes that do not fit and for a row without a token.
    """
    check_tensors(
        **{name: given[name] for name in given.keys() - {"input_ids", "past_key_values", "logits_to_keep"}}
    )
    input_ids, inputs_embeds = given.get("input_ids"), given.get("inputs_embeds")
    attention_mask, past = given.get("attention_mask"), given.get("past_key_values")
    if input_ids is None and inputs_embeds is None:
        bos = merged.bos_token_id if merged.bos_token_id is not None else config.bos_token_id
        if bos is None:
            raise GenerationError("`bos_token_id` has to be defined when no `input_ids` are provided.")
        input_ids = torch.full((1, 1), bos, device=device)
    if input_ids is not None:
        check_ids(input_ids, "input_ids")
    if inputs_embeds is not None:
        if inputs_embeds.dim() != 3 or inputs_embeds.shape[2] != config.n_embd or inputs_embeds.shape[1] == 0:
            raise ValueError(
                f"inputs_embeds has the shape {tuple(inputs_embeds.shape)}; (B, T, {config.n_embd}) is needed"
            )
        if past is not None:
            raise ValueError("inputs_embeds and past_key_values are given; give one of them")
        if input_ids is None:
            input_ids = torch.zeros(inputs_embeds.shape[0], 0, dtype=torch.long, device=inputs_embeds.device)
        elif input_ids.shape != inputs_embeds.shape[:2]:
            raise ValueError(
                f"input_ids has the shape {tuple(input_ids.shape)} and inputs_embeds "
                f"{tuple(inputs_embeds.shape)}; they must be about the same tokens"
            )
    assert input_ids is not None
    num_past = past.get_seq_length() if past is not None else 0
    if past is not None and past.batch_size not in (-1, len(input_ids)):
        raise ValueError(
            f"past_key_values holds {past.batch_size} rows; input_ids has {len(input_ids)}; they must match"
        )
    B, T = (inputs_embeds if inputs_embeds is not None else input_ids).shape[:2]
    if attention_mask is None:
        mask = _inferred_mask(input_ids, merged, config) if inputs_embeds is None else None
        mask = mask if mask is not None else torch.ones(B, T, dtype=torch.bool)
    else:
        mask = _checked_mask(attention_mask, B, T, num_past)
    has_all_ids = mask.shape[1] == T
    if has_all_ids and num_past >= T:
        raise ValueError(
            f"input_ids has {T} tokens and past_key_values holds {num_past} already; append at least one, or "
            f"give the new ones only, with an attention_mask of {num_past} columns more"
        )
    for index, row in enumerate(mask[:, num_past:]):
        if not row.any():
            raise ValueError(f"attention_mask hides every new token of row {index}; leave at least one")
    columns = mask if has_all_ids else mask[:, num_past:]
    if input_ids.shape[1]:
        ids = [row[held].tolist() for row, held in zip(input_ids.cpu(), columns, strict=True)]
    else:
        ids = [[] for _ in range(B)]
    _check_positions(given.get("position_ids"), mask)
    types = given.get("token_type_ids")
    if types is not None and types.shape != mask.shape:
        raise ValueError(
            f"token_type_ids has the shape {tuple(types.shape)}; {tuple(mask.shape)} is needed, one for each "
            "token and each position in past_key_values"
        )
    names = ("encoder_hidden_states", "encoder_attention_mask")
    encoder = {name: given[name] for name in names if name in given}
    for name, tensor in encoder.items():
        if len(tensor) != B:
            raise ValueError(f"{name} has {len(tensor)} rows; {B} are needed, one for each prompt")
    return Prompts(
        input_ids.long(),
        ids,
        mask,
        num_past,
        past,
        inputs_embeds,
        token_type_ids=types,
        encoder=encoder,
        head_mask=given.get("head_mask"),
    )


def check_ids(ids: Tensor, name: str) -> None:
    """Raise ValueError for anything but integers (B, T), at least one."""
    if not isinstance(ids, Tensor):
        raise ValueError(f"{name} is a {type(ids).__name__}; a tensor of integers (B, T) is needed")
    if ids.dim() != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(
            f"{name} is {ids.dtype} with the shape {tuple(ids.shape)}; integers (B, T) are needed"
        )
    if ids.numel() == 0:
        raise ValueError(f"{name} has the shape {tuple(ids.shape)}, which is empty; give at least one token")


def _check_positions(position_ids: Tensor | None, mask: Tensor) -> None:
    """Raise ValueError for positions that do not count the tokens that the mask shows from 0."""
    if position_ids is None:
        return
    counted = mask.cumsum(dim=1) - 1
    positions = position_ids.cpu()
    if positions.dim() == 2 and positions.shape[1] <= mask.shape[1] and len(positions) in (1, len(mask)):
        width = positions.shape[1]
        shown = mask[:, mask.shape[1] - width :]
        if (positions == counted[:, mask.shape[1] - width :])[shown].all():
            return
    raise ValueError(
        "position_ids must count each row's tokens from 0, padding left out, as generate() does by itself; "
        "leave them out"
    )


def _inferred_mask(input_ids: Tensor, merged: GenerationConfig, config: GPT2Config) -> Tensor | None:
    """Tell padding by its token, where that is no end token; None when nothing is padding."""
    ends, pad = special_tokens(merged, config)
    if pad is None or pad in ends:
        return None
    return input_ids.cpu() != pad


def _checked_mask(attention_mask: Tensor, B: int, T: int, num_past: int) -> Tensor:
    if attention_mask.dim() != 2:
        raise ValueError(
            f"`attention_mask` passed to `generate` must be 2D. It has the shape {tuple(attention_mask.shape)}"
        )
    if attention_mask.shape[0] != B or attention_mask.shape[1] not in (T, num_past + T):
        raise ValueError(
            f"attention_mask has the shape {tuple(attention_mask.shape)}; ({B}, {T}) is needed"
            + (f" or, with new tokens only, ({B}, {num_past + T})" if num_past else "")
        )
    return attention_mask.cpu() != 0


def concrete_lengths(merged: GenerationConfig, num_columns: int, n_positions: int) -> None:
    """Turn lengths that count padded columns into numbers of new tokens, as Transformers counts them.

    Raises ValueError when the prompts leave no room for a new token within max_length.
    """
    if merged.max_new_tokens is None:
        if merged.max_length is not None:
            wanted = merged.max_length - num_columns
            if wanted < 1:
                raise GenerationError(
                    f"Input length of input_ids is {num_columns}, but `max_length` is set to "
                    f"{merged.max_length}, prompt included; raise it, or set `max_new_tokens`"
                )
        else:
            wanted = max(min(DEFAULT_NEW_TOKENS, n_positions - num_columns), 1)
        merged.max_new_tokens = wanted
    merged.max_length = None
    if merged.min_new_tokens is None and merged.min_length is not None:
        merged.min_new_tokens = max(merged.min_length - num_columns, 0)
    merged.min_length = None


def unpadded(input_ids: Tensor | None, attention_mask: Tensor | None) -> list[list[int]] | None:
    """Return negative prompts as rows of ids, without what their mask hides."""
    if input_ids is None:
        if attention_mask is not None:
            raise ValueError("negative_prompt_attention_mask is given without negative_prompt_ids; give both")
        return None
    check_ids(input_ids, "negative_prompt_ids")
    if attention_mask is None:
        rows: list[list[int]] = input_ids.tolist()
        return rows
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"negative_prompt_attention_mask has the shape {tuple(attention_mask.shape)}; "
            f"{tuple(input_ids.shape)} is needed"
        )
    return [row[mask].tolist() for row, mask in zip(input_ids.cpu(), attention_mask.cpu() != 0, strict=True)]
