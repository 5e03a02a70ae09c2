"""The arguments of a call: their defaults, what they may be, and the forms that texts come in."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt2kit.errors import TokenizerError

if TYPE_CHECKING:
    from gpt2kit.tokenizer.gpt2 import GPT2Tokenizer

PADDING = {"longest", "max_length", "do_not_pad"}
TRUNCATION = {"longest_first", "only_first", "only_second", "do_not_truncate"}
# A model_max_length above this means that the model has none (Transformers stores 1e30).
NO_LIMIT = 10**20

Sequence_ = str | Sequence[str]  # one sequence: a text, or its words
Sample = tuple[Sequence_, Sequence_ | None]


@dataclass
class CallOptions:
    """What GPT2Tokenizer.__call__ takes besides the texts; None means the tokenizer's own setting."""

    add_special_tokens: bool = True
    padding: Any = False
    truncation: Any = None
    max_length: int | None = None
    stride: int = 0
    is_split_into_words: bool = False
    pad_to_multiple_of: int | None = None
    padding_side: str | None = None
    return_tensors: Any = None
    return_token_type_ids: bool | None = None
    return_attention_mask: bool | None = None
    return_overflowing_tokens: bool = False
    return_special_tokens_mask: bool = False
    return_offsets_mapping: bool = False
    return_length: bool = False
    verbose: bool = True
    split_special_tokens: bool | None = None
    add_prefix_space: bool | None = None


@dataclass(frozen=True)
class Lengths:
    """Padding and truncation of a call, with the defaults filled in."""

    padding: str
    truncation: str
    max_length: int | None


def resolve_lengths(
    tokenizer: GPT2Tokenizer,
    padding: Any,
    truncation: Any,
    max_length: int | None,
    pad_to_multiple_of: int | None = None,
    verbose: bool = True,
) -> Lengths:
    """Fill in the defaults of padding, truncation and max_length, and check that they fit together."""
    padding, truncation = getattr(padding, "value", padding), getattr(truncation, "value", truncation)
    if max_length is not None and (
        isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 0
    ):
        raise TokenizerError(f"max_length is {max_length!r}; it must be an integer from 0 up, or None")
    if max_length is not None and padding is False and truncation is None:
        truncation = "longest_first"  # max_length alone asks for truncation
    padding = {True: "longest", False: "do_not_pad", None: "do_not_pad"}.get(padding, padding)
    no_truncation = truncation in (None, False, "do_not_truncate")
    truncation = {True: "longest_first", False: "do_not_truncate", None: "do_not_truncate"}.get(
        truncation, truncation
    )
    if padding not in PADDING:
        raise TokenizerError(f"padding is {padding!r}; it may be True, False or one of {sorted(PADDING)}")
    if truncation not in TRUNCATION:
        raise TokenizerError(
            f"truncation is {truncation!r}; it may be True, False or one of {sorted(TRUNCATION)}"
        )
    if padding == "longest" and max_length is not None and no_truncation and verbose:
        warnings.warn(
            "max_length is not used: padding is 'longest' and nothing is truncated; padding='max_length' "
            "pads to it",
            stacklevel=4,
        )
    if max_length is None and tokenizer.model_max_length <= NO_LIMIT:
        if padding == "max_length" or truncation != "do_not_truncate":
            max_length = tokenizer.model_max_length
    elif max_length is None:
        padding = "do_not_pad" if padding == "max_length" else padding
        truncation = "do_not_truncate"
    if padding != "do_not_pad" and tokenizer.pad_token_id is None:
        raise TokenizerError(
            "Asking to pad but the tokenizer does not have a padding token. Set one, for example "
            "tokenizer.pad_token = tokenizer.eos_token, or add one with "
            "tokenizer.add_special_tokens({'pad_token': '[PAD]'})"
        )
    if pad_to_multiple_of is not None and (not isinstance(pad_to_multiple_of, int) or pad_to_multiple_of < 1):
        raise TokenizerError(
            f"pad_to_multiple_of is {pad_to_multiple_of!r}; it must be a positive integer or None"
        )
    both = padding != "do_not_pad" and truncation != "do_not_truncate"
    if both and pad_to_multiple_of and max_length is not None and max_length % pad_to_multiple_of:
        raise TokenizerError(
            f"max_length is {max_length}, not a multiple of pad_to_multiple_of, {pad_to_multiple_of}; "
            "with truncation "
            "and padding both on it must be"
        )
    return Lengths(padding, truncation, max_length)


def split_samples(text: Any, text_pair: Any, is_split_into_words: bool) -> tuple[list[Sample], bool]:
    """Bring the input forms to a list of (first, second or None), and tell whether a batch was given."""
    if is_split_into_words:
        is_batch = isinstance(text, (list, tuple)) and len(text) > 0 and isinstance(text[0], (list, tuple))
    else:
        is_batch = isinstance(text, (list, tuple))
    if not is_batch:
        samples = [(text, text_pair or None)]
    elif text_pair is None:
        samples = [_split_pair(item, is_split_into_words) for item in text]
    elif isinstance(text_pair, str) or len(text_pair) != len(text):
        count = 1 if isinstance(text_pair, str) else len(text_pair)
        raise TokenizerError(
            f"text has {len(text)} samples and text_pair has {count}; they must have equally many"
        )
    else:
        samples = list(zip(text, text_pair, strict=True))
    for first, second in samples:
        _check_sequence(first, is_split_into_words)
        if second is not None:
            _check_sequence(second, is_split_into_words)
    return samples, is_batch


def _split_pair(item: Any, is_split_into_words: bool) -> Sample:
    """A sample of a batch may itself be a pair."""
    kind = (list, tuple) if is_split_into_words else str
    if isinstance(item, (list, tuple)) and len(item) == 2 and all(isinstance(part, kind) for part in item):
        return item[0], item[1]
    return item, None


def _check_sequence(sequence: Any, is_split_into_words: bool) -> None:
    if not is_split_into_words and isinstance(sequence, str):
        return
    if (
        is_split_into_words
        and isinstance(sequence, (list, tuple))
        and all(isinstance(w, str) for w in sequence)
    ):
        return
    wanted = "a list of str (the words of a text)" if is_split_into_words else "a str"
    hint = "; decode bytes first" if isinstance(sequence, (bytes, bytearray)) else ""
    raise TokenizerError(f"text must be {wanted}, or a list of them for a batch; got {sequence!r:.60}{hint}")
