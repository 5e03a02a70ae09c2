"""GPT2Tokenizer.pad: padding samples that are encoded already, as a collator does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpt2kit.errors import TokenizerError
from gpt2kit.tokenizer.batch_encoding import BatchEncoding
from gpt2kit.tokenizer.call_arguments import resolve_lengths

if TYPE_CHECKING:
    from gpt2kit.tokenizer.gpt2 import GPT2Tokenizer


def pad(
    tokenizer: GPT2Tokenizer,
    encoded_inputs: Any,
    padding: Any = True,
    max_length: int | None = None,
    pad_to_multiple_of: int | None = None,
    padding_side: str | None = None,
    return_attention_mask: bool | None = None,
    return_tensors: Any = None,
    verbose: bool = True,
) -> BatchEncoding:
    """Pad one sample or a batch to one length.

    encoded_inputs: a dict of lists, arrays or tensors with "input_ids" (one sample or a batch), or a list of
    such dicts. What is not input_ids, attention_mask, token_type_ids or special_tokens_mask is passed on as
    it is. The result has lists, or what the input had (np or pt), or return_tensors.
    """
    if (
        isinstance(encoded_inputs, (list, tuple))
        and encoded_inputs
        and isinstance(encoded_inputs[0], Mapping)
    ):
        encoded_inputs = {key: [example[key] for example in encoded_inputs] for key in encoded_inputs[0]}
    name = tokenizer.model_input_names[0]
    if not isinstance(encoded_inputs, (Mapping, BatchEncoding)) or name not in encoded_inputs:
        keys = (
            list(encoded_inputs) if isinstance(encoded_inputs, (Mapping, BatchEncoding)) else encoded_inputs
        )
        raise TokenizerError(f"pad needs {name!r}; it was given {keys!r:.80}")
    kind = _tensor_kind(encoded_inputs[name])
    data = {key: _to_lists(value) for key, value in encoded_inputs.items()}
    ids = data[name]
    lengths = resolve_lengths(tokenizer, padding, None, max_length, pad_to_multiple_of, verbose)
    side = tokenizer.padding_side if padding_side is None else padding_side
    if side not in ("left", "right"):
        raise TokenizerError(f"padding_side is {side!r}; it must be 'left' or 'right'")
    with_mask = "attention_mask" in tokenizer.model_input_names
    with_mask = with_mask if return_attention_mask is None else return_attention_mask
    tensors = return_tensors if return_tensors is not None else kind

    is_batch = bool(ids) and isinstance(ids[0], (list, tuple))
    rows = ids if is_batch else [ids]
    if with_mask and "attention_mask" not in data:
        masks = [[1] * len(row) for row in rows]
        data["attention_mask"] = masks if is_batch else masks[0]
    if lengths.padding != "do_not_pad" and ids:
        length = lengths.max_length if lengths.padding == "max_length" else max(map(len, rows))
        assert length is not None, "resolve_lengths turns max_length padding off when there is no length"
        if pad_to_multiple_of is not None:
            length = -(-length // pad_to_multiple_of) * pad_to_multiple_of
        fills = {
            name: tokenizer.pad_token_id,
            "attention_mask": 0,
            "token_type_ids": tokenizer.pad_token_type_id,
            "special_tokens_mask": 1,
        }
        for key in fills.keys() & data.keys():
            if is_batch and len(data[key]) != len(rows):
                raise TokenizerError(f"{key} has {len(data[key])} rows and {name} has {len(rows)}")
            padded = [
                _fill(list(row), length, fills[key], side) for row in (data[key] if is_batch else [data[key]])
            ]
            data[key] = padded if is_batch else padded[0]
    return BatchEncoding(data, tensor_type=tensors)


def _fill(row: list[Any], length: int, value: Any, side: str) -> list[Any]:
    fill = [value] * (length - len(row))
    return row + fill if side == "right" else fill + row


def _tensor_kind(value: Any) -> str | None:
    """ "np" or "pt" if that is what the samples are made of."""
    first = value[0] if isinstance(value, (list, tuple)) and len(value) > 0 else value
    if not hasattr(first, "tolist"):
        return None
    return "pt" if type(first).__module__.partition(".")[0] == "torch" else "np"


def _to_lists(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_to_lists(item) for item in value] if value and hasattr(value[0], "tolist") else list(value)
    return value
