"""Settings of the two watermarks, under Transformers' names; generation/processors/watermark.py does the work."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from gpt2kit.config.generation_checks import LARGEST_FLOAT
from gpt2kit.config.json_file import write_json
from gpt2kit.errors import GenerationError

_Config = TypeVar("_Config", bound="BaseWatermarkingConfig")

SEEDING_SCHEMES = ("lefthash", "selfhash")
MAX_SAMPLING_TABLE_SIZE = 2**24


class BaseWatermarkingConfig:
    """What the settings of both watermarks share: dictionaries, JSON and updates."""

    @classmethod
    def from_dict(cls: type[_Config], config_dict: Mapping[str, Any], **overrides: Any) -> _Config:
        """Make a config of a dictionary; overrides that name a setting win over it, others are left alone."""
        try:
            config = cls(**config_dict)
        except TypeError as error:
            raise GenerationError(f"watermarking_config: {error}") from None
        config.update(**overrides)
        return config

    def update(self, **settings: Any) -> None:
        """Set these settings; names that are no setting are left alone."""
        for name, value in settings.items():
            if name in self.__dict__:
                setattr(self, name, value)

    def validate(self) -> None:
        """Raise GenerationError for a value that cannot be used."""

    def to_dict(self) -> dict[str, Any]:
        """Return all settings."""
        return copy.deepcopy(self.__dict__)

    def to_json_string(self) -> str:
        """Return all settings as JSON."""
        import json

        return json.dumps(self.__dict__, indent=2) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write all settings to a JSON file, atomically."""
        import json

        write_json(Path(json_file_path), json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n")

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        yield from self.to_dict().items()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # it is mutable

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


class WatermarkingConfig(BaseWatermarkingConfig):
    """A watermark of green tokens (Kirchenbauer et al., "A watermark for large language models", 2023).

    greenlist_ratio: the part of the vocabulary that is green, between 0 and 1.
    bias: added to the scores of green tokens.
    hashing_key: the secret, a prime such as the millionth.
    seeding_scheme: "lefthash" (the green list depends on the last token) or "selfhash" (on the candidate
        itself as well; slower).
    context_width: how many tokens before the candidate are hashed, at least 1.
    """

    def __init__(
        self,
        greenlist_ratio: float = 0.25,
        bias: float = 2.0,
        hashing_key: int = 15485863,
        seeding_scheme: str = "lefthash",
        context_width: int = 1,
    ) -> None:
        self.greenlist_ratio = greenlist_ratio
        self.bias = bias
        self.hashing_key = hashing_key
        self.seeding_scheme = seeding_scheme
        self.context_width = context_width

    def validate(self) -> None:
        """Raise GenerationError for a value that cannot be used."""
        if self.seeding_scheme not in SEEDING_SCHEMES:
            raise _wrong("seeding_scheme", "'lefthash' or 'selfhash'", self.seeding_scheme)
        if not _is_number(self.greenlist_ratio) or not 0.0 < self.greenlist_ratio < 1.0:
            raise _wrong("greenlist_ratio", "between 0 and 1", self.greenlist_ratio)
        if not _is_number(self.bias):
            raise _wrong("bias", "a finite 32-bit number", self.bias)
        if not _is_int(self.hashing_key) or not 0 < self.hashing_key < 2**63:
            raise _wrong("hashing_key", "an int from 1 to 2**63-1", self.hashing_key)
        if not _is_int(self.context_width) or self.context_width < 1:
            raise _wrong("context_width", "a positive int", self.context_width)


class SynthIDTextWatermarkingConfig(BaseWatermarkingConfig):
    """A watermark by tournaments (Dathathri et al., "Scalable watermarking for identifying LLM outputs", 2024).

    ngram_len: tokens that are hashed together, the candidate included; at least 2.
    keys: the secret, one int for each round of the tournament.
    context_history_size: how many contexts are remembered; a context seen before is not watermarked again.
    sampling_table_seed, sampling_table_size: the table of coin flips; at most 2**24 entries.
    skip_first_ngram_calls: leave the first ngram_len - 1 tokens without a watermark.
    debug_mode: make all scores equal before watermarking, to test it.
    """

    def __init__(
        self,
        ngram_len: int,
        keys: list[int],
        context_history_size: int = 1024,
        sampling_table_seed: int = 0,
        sampling_table_size: int = 2**16,
        skip_first_ngram_calls: bool = False,
        debug_mode: bool = False,
    ) -> None:
        self.ngram_len = ngram_len
        self.keys = keys
        self.sampling_table_size = sampling_table_size
        self.sampling_table_seed = sampling_table_seed
        self.context_history_size = context_history_size
        self.skip_first_ngram_calls = skip_first_ngram_calls
        self.debug_mode = debug_mode

    def validate(self) -> None:
        """Raise GenerationError for a value that cannot be used."""
        if not _is_int(self.ngram_len) or self.ngram_len < 2:
            raise _wrong("ngram_len", "an int of at least 2", self.ngram_len)
        if not isinstance(self.keys, (list, tuple)) or not self.keys:
            raise _wrong("keys", "a list of ints, one for each round", self.keys)
        for key in self.keys:
            if not _is_int(key) or not -(2**63) <= key < 2**63:
                raise _wrong("keys", "a list of ints of 64 bits", key)
        size = self.sampling_table_size
        if not _is_int(size) or not 1 <= size <= MAX_SAMPLING_TABLE_SIZE:
            raise _wrong("sampling_table_size", "an int from 1 to 2**24", size)
        if not _is_int(self.sampling_table_seed) or not 0 <= self.sampling_table_seed < 2**64:
            raise _wrong("sampling_table_seed", "an int from 0 to 2**64-1", self.sampling_table_seed)
        if not _is_int(self.context_history_size) or self.context_history_size < 1:
            raise _wrong("context_history_size", "a positive int", self.context_history_size)
        for name in ("skip_first_ngram_calls", "debug_mode"):
            if not isinstance(getattr(self, name), bool):
                raise _wrong(name, "True or False", getattr(self, name))


def watermarking_config(value: Any) -> BaseWatermarkingConfig:
    """Return checked settings: those given, or those that a dictionary describes.

    A dictionary with `keys` or `ngram_len` describes a SynthIDTextWatermarkingConfig, any other a
    WatermarkingConfig. Raises GenerationError.
    """
    if isinstance(value, Mapping):
        is_synthid = "keys" in value or "ngram_len" in value
        kind = SynthIDTextWatermarkingConfig if is_synthid else WatermarkingConfig
        value = kind.from_dict(value)
    if not isinstance(value, BaseWatermarkingConfig):
        raise GenerationError(
            "watermarking_config must be a WatermarkingConfig, a SynthIDTextWatermarkingConfig or a dict, got "
            f"{value!r}"
        )
    value.validate()
    return value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_FLOAT


def _wrong(name: str, allowed: str, value: Any) -> GenerationError:
    return GenerationError(
        f"Some of the keys in `watermarking_config` are defined incorrectly. `{name}` should be {allowed} but "
        f"found {value!r}"
    )
