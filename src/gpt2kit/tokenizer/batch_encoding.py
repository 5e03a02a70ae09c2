"""BatchEncoding: what calling a tokenizer gives; a dict with methods that lead back to the text."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from gpt2kit.errors import MissingDependencyError, TokenizerError
from gpt2kit.tokenizer.encoding import Encoding

if TYPE_CHECKING:
    import torch


class CharSpan(NamedTuple):
    """Characters [start, end) of a text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens [start, end) of a sample."""

    start: int
    end: int


class BatchEncoding(UserDict[Any, Any]):
    """Holds input_ids, attention_mask and so on; keys are attributes too.

    The methods from tokens() on need the encodings that a tokenizer puts in. Where they take a batch index it
    may be left out for the first sample.
    """

    def __init__(
        self,
        data: dict[str, Any] | None = None,
        encoding: Encoding | Sequence[Encoding] | None = None,
        tensor_type: str | None = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
    ) -> None:
        super().__init__(data)
        self._encodings = [encoding] if isinstance(encoding, Encoding) else encoding
        if n_sequences is None and self._encodings:
            n_sequences = self._encodings[0].n_sequences
        self._n_sequences = n_sequences
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    @property
    def n_sequences(self) -> int | None:
        """1 for single sequences, 2 for pairs, None if that is not known."""
        return self._n_sequences

    @property
    def encodings(self) -> Sequence[Encoding] | None:
        """One Encoding a sample, or None if this was made without a tokenizer."""
        return self._encodings

    @property
    def is_fast(self) -> bool:
        """Whether tokens can be led back to the text."""
        return self._encodings is not None

    def __getitem__(self, item: Any) -> Any:
        """Value of a key; for an int the sample's Encoding; for a slice a dict of the sliced values."""
        if isinstance(item, str):
            return self.data[item]
        if self._encodings is not None:
            return self._encodings[item]
        if isinstance(item, slice):
            return {key: value[item] for key, value in self.data.items()}
        raise KeyError(f"{item!r} is not a key; an index needs encodings from a tokenizer")

    def __getattr__(self, name: str) -> Any:
        if name == "data" or name not in self.data:  # "data" is absent while unpickling
            raise AttributeError(
                f"this BatchEncoding has no {name!r}; it has {sorted(self.__dict__.get('data', ()))}"
            )
        return self.data[name]

    def _at(self, batch_index: int) -> Encoding:
        if not self._encodings:
            raise TokenizerError(
                "this BatchEncoding was not made by a tokenizer, so it does not know its text"
            )
        return self._encodings[batch_index]

    def tokens(self, batch_index: int = 0) -> list[str | None]:
        """Tokens of a sample as the vocabulary spells them."""
        return self._at(batch_index).tokens

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """Which sequence each token is of: 0, 1, or None for special tokens and padding."""
        return self._at(batch_index).sequence_ids

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Which word each token is of, or None."""
        return self._at(batch_index).word_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Sequence that a token is of."""
        encoding, index = self._index(batch_or_token_index, token_index)
        return encoding.token_to_sequence(index)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Word that a token is of."""
        encoding, index = self._index(batch_or_token_index, token_index)
        return encoding.token_to_word(index)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """Characters that a token stands for; None for special tokens and padding."""
        encoding, index = self._index(batch_or_token_index, token_index)
        span = encoding.token_to_chars(index)
        return None if span is None else CharSpan(*span)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """Tokens of a word."""
        encoding, index = self._index(batch_or_word_index, word_index)
        span = encoding.word_to_tokens(index, sequence_index)
        return None if span is None else TokenSpan(*span)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """Characters of a word."""
        encoding, index = self._index(batch_or_word_index, word_index)
        span = encoding.word_to_chars(index, sequence_index)
        return None if span is None else CharSpan(*span)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """First token that holds a character."""
        encoding, index = self._index(batch_or_char_index, char_index)
        return encoding.char_to_token(index, sequence_index)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Word that holds a character."""
        encoding, index = self._index(batch_or_char_index, char_index)
        return encoding.char_to_word(index, sequence_index)

    def _index(self, batch_or_index: int, index: int | None) -> tuple[Encoding, int]:
        return (self._at(0), batch_or_index) if index is None else (self._at(batch_or_index), index)

    def convert_to_tensors(
        self, tensor_type: str | None = None, prepend_batch_axis: bool = False
    ) -> BatchEncoding:
        """Turn the values into tensors in place: "np" NumPy, "pt" PyTorch, None leaves lists.

        With "pt", raises TokenizerError if the rows of a value differ in length; "np" makes an array of
        arrays.
        """
        if tensor_type is None:
            return self
        kind = getattr(
            tensor_type, "value", tensor_type
        )  # Transformers' TensorType is an enum of these strings
        make, is_tensor = _tensor_functions(kind)
        for key, value in self.data.items():
            value = [value] if prepend_batch_axis else value
            if is_tensor(value):
                continue
            try:
                self.data[key] = make(value)
            except (ValueError, TypeError, RuntimeError) as error:
                raise TokenizerError(
                    f"{key} cannot become one tensor, most likely because its rows differ in length; ask for "
                    f"padding=True and truncation=True ({error})"
                ) from None
        return self

    def to(self, device: str | int | torch.device, *, non_blocking: bool = False) -> BatchEncoding:
        """Move the PyTorch tensors among the values to a device, in place."""
        self.data = {
            key: value.to(device=device, non_blocking=non_blocking)
            if callable(getattr(value, "to", None))
            else value
            for key, value in self.data.items()
        }
        return self


def _tensor_functions(kind: str) -> tuple[Callable[[Any], Any], Callable[[Any], bool]]:
    if kind == "np":
        import numpy as np

        return _as_numpy, lambda value: isinstance(value, np.ndarray)
    if kind == "pt":
        if find_spec("torch") is None:
            raise MissingDependencyError("return_tensors='pt' needs torch: pip install 'gpt2kit[torch]'")
        import torch

        return _as_torch, torch.is_tensor
    raise TokenizerError(f"tensors of type {kind!r} are not supported; use 'np', 'pt' or None")


def _as_torch(value: Any) -> Any:
    import torch

    array = _as_numpy(value)
    if array.dtype == object:
        raise ValueError("rows of different lengths")
    return torch.from_numpy(array)


def _as_numpy(value: Any) -> Any:
    """An array of integers; rows of different lengths make an array of arrays, as in Transformers."""
    import numpy as np

    if isinstance(value, (list, tuple)) and len({len(row) for row in value if hasattr(row, "__len__")}) > 1:
        array = np.empty(len(value), dtype=object)
        array[:] = [np.asarray(row) for row in value]
        return array
    array = np.asarray(value)
    return array.astype(np.int64) if array.size == 0 else array
