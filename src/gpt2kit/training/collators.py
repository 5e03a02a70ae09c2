"""Data collators: from a list of examples to a batch, as tensors of torch or arrays of numpy.

An example is a mapping, such as what a tokenizer returns for one text, or an object with attributes; a batch is a dict
that a model's forward takes. Examples that lie between a batch's longest are padded by the tokenizer, labels with -100,
which losses ignore.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import chain
from typing import Any

import numpy as np

from gpt2kit.errors import MissingDependencyError, TrainingError

IGNORED_LABEL = -100  # torch's cross_entropy leaves it out

Example = Any  # a mapping, or an object with attributes
Batch = Any  # a dict of tensors or arrays, or the BatchEncoding that a tokenizer pads into


def default_data_collator(features: Sequence[Example], return_tensors: str = "pt") -> Batch:
    """Stack examples of equal shape; `label` and `label_ids` become `labels`; strings and None are left out.

    return_tensors: "pt" or "np". Raises TrainingError for examples that do not stack.
    """
    examples = [example if isinstance(example, Mapping) else vars(example) for example in features]
    if not examples:
        raise TrainingError("there are no examples to make a batch of")
    first = examples[0]
    batch: Batch = {}
    for name in ("label", "label_ids"):
        if first.get(name) is not None:
            is_row = name == "label_ids" and hasattr(first[name], "dtype")  # and is taken as it is
            is_integer = np.issubdtype(np.asarray(first[name]).dtype, np.integer)
            dtype = None if is_row else "int64" if is_integer else "float32"
            batch["labels"] = _stacked(name, [example[name] for example in examples], return_tensors, dtype)
            break
    for name, value in first.items():
        if name not in ("label", "label_ids") and value is not None and not isinstance(value, str):
            batch[name] = _stacked(name, [example[name] for example in examples], return_tensors)
    return batch


@dataclass
class DefaultDataCollator:
    """default_data_collator with its return_tensors remembered."""

    return_tensors: str = "pt"

    def __call__(self, features: Sequence[Example], return_tensors: str | None = None) -> Batch:
        """Make a batch of examples."""
        return default_data_collator(features, return_tensors or self.return_tensors)


@dataclass
class DataCollatorWithPadding:
    """Pads examples to the longest, or as asked; `label` and `label_ids` become `labels`.

    tokenizer: its pad() and padding_side are used. padding, max_length, pad_to_multiple_of: as for pad().
    """

    tokenizer: Any
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> Batch:
        """Make a batch of examples."""
        batch = _padded(self, features, self.return_tensors)
        for name in ("label", "label_ids"):
            if name in batch:
                batch["labels"] = batch.pop(name)
        return batch


@dataclass
class DataCollatorForTokenClassification:
    """Pads examples and their labels, one a token, on the tokenizer's padding side.

    label_pad_token_id: the label of padding.
    """

    tokenizer: Any
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    label_pad_token_id: int = IGNORED_LABEL
    return_tensors: str = "pt"

    def __call__(self, features: Sequence[Mapping[str, Any]], return_tensors: str | None = None) -> Batch:
        """Make a batch of examples; the labels stay under their name, `label` or `labels`."""
        kind = return_tensors or self.return_tensors
        name = "label" if "label" in features[0] else "labels"
        inputs = [{key: value for key, value in example.items() if key != name} for example in features]
        batch = _padded(self, inputs, kind)
        if name in features[0]:
            length = batch["input_ids"].shape[1]
            labels = [_as_list(example[name]) for example in features]
            filled = [self._filled(row, length) for row in labels]
            batch[name] = _stacked(name, filled, kind, "int64")
        return batch

    def _filled(self, labels: list[int], length: int) -> list[int]:
        padding = [self.label_pad_token_id] * (length - len(labels))
        return labels + padding if self.tokenizer.padding_side == "right" else padding + labels


@dataclass
class DataCollatorForMultipleChoice:
    """Pads the choices of all examples alike: inputs become (B, C, T), for GPT2DoubleHeadsModel.

    An example has a list of choices under each name, and its `label` or `labels`: the number of the right one.
    """

    tokenizer: Any
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"

    def __call__(self, features: Sequence[Mapping[str, Any]], return_tensors: str | None = None) -> Batch:
        """Make a batch of examples."""
        kind = return_tensors or self.return_tensors
        name = "label" if "label" in features[0] else "labels"
        num_choices = len(features[0]["input_ids"])
        choices = [
            {key: value[i] for key, value in example.items() if key != name}
            for example in features
            for i in range(num_choices)
        ]
        padded = _padded(self, choices, kind)
        batch: Batch = {key: value.reshape(len(features), num_choices, -1) for key, value in padded.items()}
        batch["labels"] = _stacked(name, [example[name] for example in features], kind, "int64")
        return batch


@dataclass
class DataCollatorForLanguageModeling:
    """Pads examples, mappings or lists of ids, and makes `labels` of their input_ids, -100 where there is padding.

    mlm: must be False; masked language modelling needs a model that sees both sides, which GPT-2 does not.
    mlm_probability to random_replace_prob and seed belong to it and have no effect.
    """

    tokenizer: Any
    mlm: bool = True
    whole_word_mask: bool = False
    mlm_probability: float | None = 0.15
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.mlm or self.whole_word_mask:
            raise TrainingError(
                "masked language modelling is not for GPT-2, which sees a text from the left only; pass mlm=False"
            )

    def __call__(self, features: Sequence[Example], return_tensors: str | None = None) -> Batch:
        """Make a batch of examples."""
        kind = return_tensors or self.return_tensors
        if isinstance(features[0], Mapping):
            batch = self.tokenizer.pad(
                list(features), pad_to_multiple_of=self.pad_to_multiple_of, return_tensors=kind
            )
        else:
            batch = {"input_ids": self._padded_ids(features, kind)}
        for name in ("special_tokens_mask", "offset_mapping"):
            batch.pop(name, None)
        labels = batch["input_ids"].clone() if kind == "pt" else batch["input_ids"].copy()
        if self.tokenizer.pad_token_id is not None:
            labels[labels == self.tokenizer.pad_token_id] = IGNORED_LABEL
        batch["labels"] = labels
        return batch

    def _padded_ids(self, rows: Sequence[Example], kind: str) -> Any:
        ids = [_as_list(row) for row in rows]
        longest = max(map(len, ids))
        if self.pad_to_multiple_of:
            longest += -longest % self.pad_to_multiple_of
        if any(len(row) < longest for row in ids):
            pad = self.tokenizer.pad_token_id
            if pad is None:
                raise TrainingError(
                    "the examples differ in length, and the tokenizer has no padding token; set "
                    "tokenizer.pad_token, or give examples of equal length"
                )
            padding = [[pad] * (longest - len(row)) for row in ids]
            if self.tokenizer.padding_side == "right":
                ids = [row + rest for row, rest in zip(ids, padding, strict=True)]
            else:
                ids = [rest + row for row, rest in zip(ids, padding, strict=True)]
        return _stacked("input_ids", ids, kind, "int64")


@dataclass
class DataCollatorWithFlattening:
    """Puts examples end to end in one row (1, total), without padding; position_ids start again with each.

    A model takes rows whose positions start again as separate texts. labels: the example's, or its input_ids; the
    first of each becomes separator_id, since no text before predicts it. return_flash_attn_kwargs adds cu_seq_lens_q
    and cu_seq_lens_k, where each example begins and the last ends, max_length_q and max_length_k;
    return_seq_idx adds the number of the example of each token. position_ids_start: the first position.
    """

    return_tensors: str = "pt"
    _: KW_ONLY
    return_position_ids: bool = True
    separator_id: int = IGNORED_LABEL
    return_flash_attn_kwargs: bool = False
    return_seq_idx: bool = False
    position_ids_start: int = 0

    def __call__(
        self,
        features: Sequence[Mapping[str, Any]],
        return_tensors: str | None = None,
        separator_id: int | None = None,
    ) -> Batch:
        """Make a batch of examples."""
        kind = return_tensors or self.return_tensors
        separator = self.separator_id if separator_id is None else separator_id
        rows = [_as_list(example["input_ids"]) for example in features]
        name = "labels" if "labels" in features[0] else "input_ids"
        labels = [[separator, *_as_list(example[name])[1:]] for example in features]
        start = self.position_ids_start
        lengths = [len(row) for row in rows]
        joined = {"input_ids": rows, "labels": labels}
        if self.return_position_ids:
            joined["position_ids"] = [list(range(start, start + length)) for length in lengths]
        batch: Batch = {
            key: _stacked(key, [list(chain(*parts))], kind, "int64") for key, parts in joined.items()
        }
        if self.return_seq_idx:
            numbers = np.repeat(np.arange(len(rows)), lengths).tolist()
            batch["seq_idx"] = _stacked("seq_idx", [numbers], kind, "int32")
        if self.return_flash_attn_kwargs:
            ends = _stacked("cu_seq_lens", np.cumsum([0, *lengths]).tolist(), kind, "int32")
            batch |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
            batch |= {"max_length_q": max(lengths), "max_length_k": max(lengths)}
        return batch


def _padded(
    collator: DataCollatorWithPadding | DataCollatorForTokenClassification | DataCollatorForMultipleChoice,
    features: Sequence[Mapping[str, Any]],
    return_tensors: str,
) -> Batch:
    return collator.tokenizer.pad(
        list(features),
        padding=collator.padding,
        max_length=collator.max_length,
        pad_to_multiple_of=collator.pad_to_multiple_of,
        return_tensors=return_tensors,
    )


def _as_list(values: Any) -> list[Any]:
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _stacked(name: str, values: Sequence[Any], return_tensors: str, dtype: str | None = None) -> Any:
    """Return the values of all examples as one tensor or array.

    dtype: its name, or None for that of the values. Raises TrainingError where they differ in shape.
    """
    if return_tensors not in ("pt", "np"):
        raise TrainingError(f"return_tensors is {return_tensors!r}; it must be 'pt' or 'np'")
    try:
        if return_tensors == "np":
            array = np.stack([np.asarray(value) for value in values])
            return array if dtype is None else array.astype(dtype)
        torch = _torch()
        if isinstance(values[0], torch.Tensor):
            stacked = torch.stack(list(values))
        elif isinstance(values[0], np.ndarray):
            stacked = torch.from_numpy(np.stack(values))
        else:
            stacked = torch.tensor(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise TrainingError(
            f"{name} of the examples do not make one tensor ({error}); pad them to one length, or leave it out"
        ) from None
    return stacked if dtype is None else stacked.to(getattr(torch, dtype))


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingDependencyError(
            "return_tensors='pt' gives torch tensors, and torch is not installed; use 'np', or pip install "
            "'gpt2kit[torch]'"
        ) from None
    return torch
