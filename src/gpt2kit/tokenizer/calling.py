"""From the texts of a call to a BatchEncoding: truncation, special tokens, padding."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from gpt2kit.errors import TokenizerError
from gpt2kit.tokenizer.batch_encoding import BatchEncoding
from gpt2kit.tokenizer.call_arguments import CallOptions, Lengths, Sample, resolve_lengths, split_samples
from gpt2kit.tokenizer.encoding import Encoding, Padding, Part, Rows, Special, Stretch
from gpt2kit.tokenizer.template import Slot, SpecialSlot, Template
from gpt2kit.tokenizer.truncation import Range, target_sizes, windows

if TYPE_CHECKING:
    from gpt2kit.tokenizer.gpt2 import GPT2Tokenizer

_MAX_THREADS = 8


def num_threads() -> int:
    """How many threads a batch is encoded on: the processors that this process may use, at most 8."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), _MAX_THREADS)
    return min(os.cpu_count() or 1, _MAX_THREADS)


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
    rows = _encode_rows(tokenizer, samples, options)
    if is_batch and _is_plain(tokenizer, samples, lengths, options):
        return _gather_plain(tokenizer, rows, lengths, options)
    encodings = _sample_encodings(tokenizer, samples, rows, lengths, options)
    if lengths.padding != "do_not_pad":
        _pad(tokenizer, encodings, lengths, options)
    elif options.verbose and lengths.max_length is None:
        tokenizer.warn_if_too_long(max(map(len, encodings), default=0))
    return _gather(tokenizer, encodings, is_batch, options)


def _encode_rows(tokenizer: GPT2Tokenizer, samples: list[Sample], options: CallOptions) -> Rows:
    split_special, prefix_space = options.split_special_tokens, options.add_prefix_space
    template = tokenizer.template
    return Rows(
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


def _is_plain(
    tokenizer: GPT2Tokenizer, samples: list[Sample], lengths: Lengths, options: CallOptions
) -> bool:
    """Whether each sample is one encoded text as it is, and only ids and masks of it are wanted."""
    return (
        lengths.padding == "do_not_pad"
        and lengths.truncation == "do_not_truncate"
        and (tokenizer.template.single == (Slot(0, 0),) or not options.add_special_tokens)
        and all(second is None for _, second in samples)
        and not options.return_special_tokens_mask
        and not options.return_offsets_mapping
        and not options.return_overflowing_tokens
        and not options.return_length
    )


class _PlainEncodings(Sequence[Encoding]):
    """Encodings of samples that are one row each, made when they are asked for: most callers never do."""

    def __init__(self, rows: Rows, type_id: int) -> None:
        self._rows = rows
        self._type_id = type_id

    def __len__(self) -> int:
        return len(self._rows.ids)

    @overload
    def __getitem__(self, index: int) -> Encoding: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoding]: ...
    def __getitem__(self, index: int | slice) -> Encoding | list[Encoding]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        return Encoding(self._rows, (Stretch(row, 0, len(self._rows.ids[row]), 0, self._type_id),))


def _gather_plain(
    tokenizer: GPT2Tokenizer, rows: Rows, lengths: Lengths, options: CallOptions
) -> BatchEncoding:
    (type_id,) = (part.type_id for part in tokenizer.template.single if isinstance(part, Slot))
    if options.verbose and lengths.max_length is None:
        tokenizer.warn_if_too_long(max(map(len, rows.ids), default=0))
    data: dict[str, Any] = {"input_ids": rows.ids}
    if _is_wanted(tokenizer, options.return_token_type_ids, "token_type_ids"):
        data["token_type_ids"] = [[type_id] * len(ids) for ids in rows.ids]
    if _is_wanted(tokenizer, options.return_attention_mask, "attention_mask"):
        data["attention_mask"] = [[1] * len(ids) for ids in rows.ids]
    return BatchEncoding(
        data, _PlainEncodings(rows, type_id), tensor_type=options.return_tensors, n_sequences=1
    )


def _is_wanted(tokenizer: GPT2Tokenizer, option: bool | None, name: str) -> bool:
    return name in tokenizer.model_input_names if option is None else option


def _sample_encodings(
    tokenizer: GPT2Tokenizer, samples: list[Sample], rows: Rows, lengths: Lengths, options: CallOptions
) -> list[Encoding]:
    encodings = []
    row = 0
    for _, second in samples:
        second_row = None if second is None else row + 1
        encodings.append(
            _sample_encoding(
                rows,
                row,
                second_row,
                tokenizer.template,
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
    with_overflow = options.return_overflowing_tokens
    rows = [
        (i, row)
        for i, main in enumerate(encodings)
        for row in ((main, *main.overflowing) if with_overflow else (main,))
    ]
    data: dict[str, list[Any]] = {"input_ids": [row.ids for _, row in rows]}
    if _is_wanted(tokenizer, options.return_token_type_ids, "token_type_ids"):
        data["token_type_ids"] = [row.type_ids for _, row in rows]
    if _is_wanted(tokenizer, options.return_attention_mask, "attention_mask"):
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
