"""From the arguments of a call to a BatchEncoding: input forms, truncation, special tokens, padding."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt2kit.errors import TokenizerError
from gpt2kit.tokenizer.batch_encoding import BatchEncoding
from gpt2kit.tokenizer.encoding import Encoding, Padding, Part, Rows, Special, Stretch
from gpt2kit.tokenizer.template import Slot, SpecialSlot, Template
from gpt2kit.tokenizer.truncation import Range, target_sizes, windows

if TYPE_CHECKING:
    from gpt2kit.tokenizer.gpt2 import GPT2Tokenizer

PADDING = {"longest", "max_length", "do_not_pad"}
TRUNCATION = {"longest_first", "only_first", "only_second", "do_not_truncate"}
# A model_max_length above this means that the model has none (Transformers stores 1e30).
NO_LIMIT = 10**20
_MAX_THREADS = 8

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


def num_threads() -> int:
    """How many threads a batch is encoded on: the processors that this process may use, at most 8."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), _MAX_THREADS)
    return min(os.cpu_count() or 1, _MAX_THREADS)


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


def encode_batch(tokenizer: GPT2Tokenizer, text: Any, text_pair: Any, options: CallOptions) -> BatchEncoding:
    """Encode what was given and gather what was asked for."""
    lengths = resolve_lengths(
        tokenizer,
        options.padding,
        options.truncation,
        options.max_length,
        options.pad_to_multiple_of,
        options.verbose,
    )
    if isinstance(options.stride, bool) or not isinstance(options.stride, int) or options.stride < 0:
        raise TokenizerError(f"stride is {options.stride!r}; it must be an integer from 0 up")
    room = (lengths.max_length or 0) - tokenizer.num_special_tokens_to_add()
    if lengths.truncation != "do_not_truncate" and options.stride > room:
        raise TokenizerError(
            f"stride is {options.stride}; it must be less than the {room} tokens that max_length leaves "
            "for text"
        )
    samples, is_batch = split_samples(text, text_pair, options.is_split_into_words)
    encodings = _encode_samples(tokenizer, samples, lengths, options)
    if lengths.padding != "do_not_pad":
        _pad(tokenizer, encodings, lengths, options)
    elif options.verbose and lengths.max_length is None:
        tokenizer.warn_if_too_long(max(map(len, encodings), default=0))
    return _gather(tokenizer, encodings, is_batch, options)


def _encode_samples(
    tokenizer: GPT2Tokenizer, samples: list[Sample], lengths: Lengths, options: CallOptions
) -> list[Encoding]:
    split_special, prefix_space = options.split_special_tokens, options.add_prefix_space
    template = tokenizer.template
    rows = Rows(
        tokenizer.bpe,
        [sequence for sample in samples for sequence in sample if sequence is not None],
        bool(tokenizer.split_special_tokens if split_special is None else split_special),
        # The words of a split text have lost the spaces between them, so each gets one.
        options.is_split_into_words
        or bool(tokenizer.add_prefix_space if prefix_space is None else prefix_space),
        num_threads(),
        tokenizer.tokens.token,
        frozenset(tokenizer.all_special_ids)
        | {part.id for part in template.pair if isinstance(part, SpecialSlot)},
        template.trim_offsets,
        template.trim_keeps_first,
    )
    encodings = []
    row = 0
    for _, second in samples:
        second_row = None if second is None else row + 1
        encodings.append(
            _sample_encoding(
                rows,
                row,
                second_row,
                template,
                lengths,
                options.stride,
                tokenizer.truncation_side,
                options.add_special_tokens,
            )
        )
        row += 1 if second is None else 2
    return encodings


def _sample_encoding(
    rows: Rows,
    first: int,
    second: int | None,
    template: Template,
    lengths: Lengths,
    stride: int,
    side: str,
    add_special_tokens: bool,
) -> Encoding:
    sizes = len(rows.ids[first]), None if second is None else len(rows.ids[second])
    kept: tuple[int, int | None] = sizes
    if lengths.truncation != "do_not_truncate" and lengths.max_length is not None:
        num_special = template.num_special(second is not None) if add_special_tokens else 0
        if lengths.max_length < num_special:
            raise TokenizerError(
                f"max_length is {lengths.max_length}, less than the {num_special} special tokens"
            )
        kept = target_sizes(*sizes, lengths.max_length - num_special, lengths.truncation)
    first_windows = windows(sizes[0], kept[0], stride, side)
    second_windows: list[Range | None] = [None]
    if sizes[1] is not None and kept[1] is not None:
        second_windows = [*windows(sizes[1], kept[1], stride, side)]

    def encoding(a: Range, b: Range | None) -> Encoding:
        parts: list[Part] = []
        for part in template.parts(second is not None):
            if not isinstance(part, Slot):
                if add_special_tokens:
                    parts.append(Special(part.id, part.type_id))
            elif part.sequence == 0:
                parts.append(Stretch(first, *a, 0, part.type_id))
            elif second is not None and b is not None:
                parts.append(Stretch(second, *b, 1, part.type_id))
        return Encoding(rows, tuple(parts))

    result = encoding(first_windows[0], second_windows[0])
    # Each overflow of the first with all of the second, then the kept first with the overflows of the second.
    result.overflowing = [encoding(a, b) for a in first_windows[1:] for b in second_windows]
    result.overflowing += [encoding(first_windows[0], b) for b in second_windows[1:]]
    return result


def _pad(tokenizer: GPT2Tokenizer, encodings: list[Encoding], lengths: Lengths, options: CallOptions) -> None:
    side = tokenizer.padding_side if options.padding_side is None else options.padding_side
    if side not in ("left", "right"):
        raise TokenizerError(f"padding_side is {side!r}; it must be 'left' or 'right'")
    length = lengths.max_length if lengths.padding == "max_length" else max(map(len, encodings), default=0)
    assert length is not None, "resolve_lengths turns max_length padding off when there is no length"
    multiple = options.pad_to_multiple_of
    if multiple is not None:
        length = -(-length // multiple) * multiple
    for encoding in (e for main in encodings for e in (main, *main.overflowing)):
        missing = length - len(encoding)
        if missing > 0:
            pad = Padding(tokenizer.pad_token_id, tokenizer.pad_token_type_id, missing)
            encoding.parts = (*encoding.parts, pad) if side == "right" else (pad, *encoding.parts)


def _gather(
    tokenizer: GPT2Tokenizer, encodings: list[Encoding], is_batch: bool, options: CallOptions
) -> BatchEncoding:
    def is_wanted(option: bool | None, name: str) -> bool:
        return name in tokenizer.model_input_names if option is None else option

    with_overflow = options.return_overflowing_tokens
    rows = [
        (i, row)
        for i, main in enumerate(encodings)
        for row in ((main, *main.overflowing) if with_overflow else (main,))
    ]
    data: dict[str, list[Any]] = {"input_ids": [row.ids for _, row in rows]}
    if is_wanted(options.return_token_type_ids, "token_type_ids"):
        data["token_type_ids"] = [row.type_ids for _, row in rows]
    if is_wanted(options.return_attention_mask, "attention_mask"):
        data["attention_mask"] = [row.attention_mask for _, row in rows]
    if options.return_special_tokens_mask:
        data["special_tokens_mask"] = [row.special_tokens_mask for _, row in rows]
    if options.return_offsets_mapping:
        data["offset_mapping"] = [row.offsets for _, row in rows]
    if options.return_length:
        data["length"] = [len(row) for _, row in rows]
    if with_overflow:
        data["overflow_to_sample_mapping"] = [i for i, _ in rows]
    known = [row for _, row in rows]
    if not is_batch and options.return_tensors is None and not with_overflow:
        return BatchEncoding({k: v[0] if isinstance(v[0], list) else v for k, v in data.items()}, known)
    return BatchEncoding(data, known, tensor_type=options.return_tensors)
