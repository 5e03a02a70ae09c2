"""BitsAndBytesConfig: which weights of a model are held in 8 or 4 bits, and how. Knows no weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from gpt2kit.config.fields import refuse
from gpt2kit.config.json_file import to_json_text, write_json
from gpt2kit.config.packed import is_packed
from gpt2kit.errors import ConfigError, ConfigTypeError

QUANT_METHOD = "bitsandbytes"
QUANT_TYPES = ("fp4", "nf4")
COMPUTE_DTYPES = ("float32", "float16", "bfloat16")
STORAGE_DTYPES = ("float16", "float32", "int8", "uint8", "float64", "bfloat16")

_DEFAULTS: dict[str, Any] = {
    "load_in_8bit": False,
    "load_in_4bit": False,
    "llm_int8_threshold": 6.0,
    "llm_int8_skip_modules": None,
    "llm_int8_enable_fp32_cpu_offload": False,
    "llm_int8_has_fp16_weight": False,
    "bnb_4bit_compute_dtype": "float32",
    "bnb_4bit_quant_type": "fp4",
    "bnb_4bit_use_double_quant": False,
    "bnb_4bit_quant_storage": "uint8",
}
# In files beside the settings: what kind this is, and the two switches once more.
_FILE_KEYS = ("quant_method", "_load_in_8bit", "_load_in_4bit")
_BOOLEANS = tuple(name for name, value in _DEFAULTS.items() if value is False)
_DTYPES = {"bnb_4bit_compute_dtype": COMPUTE_DTYPES, "bnb_4bit_quant_storage": STORAGE_DTYPES}
_SKIP_MODULES = "llm_int8_skip_modules"


class BitsAndBytesConfig:
    """How bitsandbytes holds weights, with Transformers' names, defaults and file format.

    load_in_8bit: LLM.int8(), a scale a row; load_in_4bit: blocks of 64 in bnb_4bit_quant_type "fp4" or "nf4",
    whose scales bnb_4bit_use_double_quant holds in 8 bits too. At most one of the two.
    llm_int8_threshold: inputs of at least this size are multiplied in 16 bits, 0.0 for none.
    llm_int8_skip_modules: patterns of module names to leave as they are; None leaves the language model head.
    llm_int8_enable_fp32_cpu_offload: modules that a device_map puts on the CPU beside an accelerator are left
    as they are. llm_int8_has_fp16_weight: weights stay in 16 bits and are quantised at each forward.
    bnb_4bit_compute_dtype: of the products. bnb_4bit_quant_storage: the dtype that packed bits are viewed as.

    A dtype is given as a name or a torch.dtype, and read as a torch.dtype (which imports torch).
    Raises ConfigError, which for a wrong type is a TypeError too.
    """

    quant_method = QUANT_METHOD
    load_in_8bit: bool
    load_in_4bit: bool
    llm_int8_threshold: float
    llm_int8_skip_modules: list[str] | None
    llm_int8_enable_fp32_cpu_offload: bool
    llm_int8_has_fp16_weight: bool
    bnb_4bit_quant_type: str
    bnb_4bit_use_double_quant: bool

    def __init__(
        self,
        load_in_8bit: bool = False,
        load_in_4bit: bool = False,
        llm_int8_threshold: float = 6.0,
        llm_int8_skip_modules: list[str] | None = None,
        llm_int8_enable_fp32_cpu_offload: bool = False,
        llm_int8_has_fp16_weight: bool = False,
        bnb_4bit_compute_dtype: Any = None,
        bnb_4bit_quant_type: str = "fp4",
        bnb_4bit_use_double_quant: bool = False,
        bnb_4bit_quant_storage: Any = None,
        **kwargs: Any,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in _DEFAULTS}
        unknown = sorted(kwargs.keys() - set(_FILE_KEYS))
        if unknown:
            raise ConfigError(f"{', '.join(unknown)}: no such setting; allowed: {', '.join(_DEFAULTS)}")
        if kwargs.get("quant_method", QUANT_METHOD) != QUANT_METHOD:
            raise refuse("quant_method", str(kwargs["quant_method"]), f"{QUANT_METHOD!r}; use float weights")
        for name in _DTYPES:
            given[name] = _DEFAULTS[name] if given[name] is None else given[name]
        for name, value in given.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _DTYPES:
            value, name = _dtype_name(name, value), f"_{name}"
        elif name in _DEFAULTS:
            _check(name, value)
        other = {"load_in_8bit": "load_in_4bit", "load_in_4bit": "load_in_8bit"}.get(name)
        if other is not None and value and self.__dict__.get(other):
            raise ConfigError(
                "load_in_4bit and load_in_8bit are both True, but only one can be used at the same time"
            )
        object.__setattr__(self, name, value)

    @property
    def bnb_4bit_compute_dtype(self) -> Any:
        """The torch.dtype of the products."""
        return _torch_dtype(self.compute_dtype_name)

    @property
    def bnb_4bit_quant_storage(self) -> Any:
        """The torch.dtype that packed bits are viewed as."""
        return _torch_dtype(self.quant_storage_name)

    @property
    def compute_dtype_name(self) -> str:
        """bnb_4bit_compute_dtype as text, without torch."""
        return str(self.__dict__["_bnb_4bit_compute_dtype"])

    @property
    def quant_storage_name(self) -> str:
        """bnb_4bit_quant_storage as text, without torch."""
        return str(self.__dict__["_bnb_4bit_quant_storage"])

    def is_quantizable(self) -> bool:
        """Tell whether anything is to be quantised."""
        return self.load_in_8bit or self.load_in_4bit

    def quantization_method(self) -> str | None:
        """Give "llm_int8", "fp4" or "nf4", or None."""
        return "llm_int8" if self.load_in_8bit else self.bnb_4bit_quant_type if self.load_in_4bit else None

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, Any], return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """Build a configuration from a mapping, with some settings changed.

        With return_unused_kwargs also gives the keywords that are no settings; otherwise they are refused.
        """
        config = cls(**config_dict)
        unused = config.update(**kwargs)
        if return_unused_kwargs:
            return config, unused
        if unused:
            raise ConfigError(f"{', '.join(unused)}: no such setting; allowed: {', '.join(_DEFAULTS)}")
        return config

    def update(self, **kwargs: Any) -> dict[str, Any]:
        """Set several settings; give back those that are none."""
        for name in kwargs.keys() & _DEFAULTS.keys():
            setattr(self, name, kwargs[name])
        return {name: value for name, value in kwargs.items() if name not in _DEFAULTS}

    def to_dict(self) -> dict[str, Any]:
        """Give every setting as plain values, with the keys of a file."""
        settings = {name: self.__dict__[f"_{name}" if name in _DTYPES else name] for name in _DEFAULTS}
        if self.llm_int8_skip_modules is not None:
            settings[_SKIP_MODULES] = list(self.llm_int8_skip_modules)
        settings["_load_in_8bit"], settings["_load_in_4bit"] = self.load_in_8bit, self.load_in_4bit
        settings["quant_method"] = QUANT_METHOD
        return settings

    def to_diff_dict(self) -> dict[str, Any]:
        """Give the settings that differ from their defaults."""
        default = BitsAndBytesConfig().to_dict()
        return {name: value for name, value in self.to_dict().items() if value != default[name]}

    def to_json_string(self, use_diff: bool = True) -> str:
        """Write the settings as JSON text; with `use_diff` false, every setting."""
        return to_json_text(self.to_diff_dict() if use_diff else self.to_dict())

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write every setting to a JSON file, atomically."""
        write_json(json_file_path, to_json_text(self.to_dict()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BitsAndBytesConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # it is mutable

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(self.to_dict().items())

    def __repr__(self) -> str:
        return f"BitsAndBytesConfig {self.to_json_string(use_diff=False)}"


def quantization_of(config: object) -> BitsAndBytesConfig | None:
    """Give the quantization_config of a model's configuration, which may hold it as a mapping; None without.

    None for a packed folder too (config/packed.py).
    """
    found = getattr(config, "quantization_config", None)
    if found is None or isinstance(found, BitsAndBytesConfig):
        return found
    if is_packed(found):
        return None
    return BitsAndBytesConfig(**found)


def _check(name: str, value: Any) -> None:
    if name in _BOOLEANS and type(value) is not bool:
        raise ConfigTypeError(f"{name} must be a boolean; it is {value!r}")
    if name == "llm_int8_threshold":
        if type(value) is not float:
            raise ConfigTypeError(f"{name} must be a float; it is {value!r}")
        if not 0.0 <= value < float("inf"):
            raise refuse(name, value, "a finite number from 0.0")
    if name == _SKIP_MODULES and value is not None:
        if type(value) is not list or any(type(item) is not str for item in value):
            raise ConfigTypeError(f"{name} must be a list of strings; it is {value!r}")
        for item in value:
            _check_pattern(name, item)
    if name == "bnb_4bit_quant_type":
        if type(value) is not str:
            raise ConfigTypeError(f"{name} must be a string; it is {value!r}")
        if value not in QUANT_TYPES:
            raise refuse(name, value, ", ".join(QUANT_TYPES))


def _check_pattern(name: str, pattern: str) -> None:
    """Refuse what is no regular expression, or one that a file could make slow without end."""
    import re

    if len(pattern) > 256 or "(" in pattern or sum(pattern.count(sign) for sign in "*+?{") > 3:
        raise refuse(name, pattern, "patterns of at most 256 characters and three repeats, without groups")
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{name}: {pattern!r} is no pattern: {error}") from None


def _dtype_name(name: str, value: Any) -> str:
    # A torch.dtype prints as torch.float16; only its name is kept, so that torch is not needed here.
    if not isinstance(value, str) and type(value).__name__ != "dtype":
        raise ConfigError(f"{name} must be a string or a torch.dtype; it is {value!r}")
    text = str(value).removeprefix("torch.")
    if text not in _DTYPES[name]:
        raise ConfigError(f"{name} must be one of {', '.join(_DTYPES[name])}; it is {text!r}")
    return text


def _torch_dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)
