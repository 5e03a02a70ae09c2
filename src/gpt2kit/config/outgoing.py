"""Settings as they leave: all of them, those that a file needs, or those that the file they came from had."""

from __future__ import annotations

import copy
from collections.abc import Set
from typing import Any

from gpt2kit.config.bitsandbytes import BitsAndBytesConfig
from gpt2kit.config.fields import FIELDS
from gpt2kit.config.incoming import ALIASES

# Written into fresh files: the release of Transformers whose config.json these are byte for byte.
TRANSFORMERS_VERSION = "5.23.0"

# Settings of all models, which a file leaves out at these values. GPT-2's own are always written.
_COMMON: dict[str, Any] = {
    "architectures": None,
    "output_hidden_states": False,
    "return_dict": True,
    "dtype": None,
    "chunk_size_feed_forward": 0,
    "is_encoder_decoder": False,
    "id2label": {0: "LABEL_0", 1: "LABEL_1"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "problem_type": None,
    "output_attentions": False,
}


def every_setting(attributes: dict[str, Any]) -> dict[str, Any]:
    """Give all settings among a configuration's attributes, as plain values."""
    settings = {name: _plain(value) for name, value in attributes.items() if not name.startswith("_")}
    settings["_name_or_path"] = attributes["_name_or_path"]
    settings["output_attentions"] = attributes["_output_attentions"]
    settings["model_type"] = "gpt2"
    settings["transformers_version"] = attributes["transformers_version"] or TRANSFORMERS_VERSION
    return settings


def _plain(value: Any) -> Any:
    if isinstance(value, BitsAndBytesConfig):
        return value.to_dict()
    return copy.deepcopy(list(value) if isinstance(value, tuple) else value)


def needed_settings(attributes: dict[str, Any]) -> dict[str, Any]:
    """Give the settings that a fresh file has."""
    settings = every_setting(attributes)
    del settings["_name_or_path"]
    return {name: value for name, value in settings.items() if name not in _COMMON or value != _COMMON[name]}


def settings_of_file(attributes: dict[str, Any], keys: Set[str]) -> dict[str, Any]:
    """Give the settings for a file that had these keys before: those, and what differs from its default.

    Old names that the file used (torch_dtype, hidden_size, ...) stay in use.
    """
    settings = {name: value for name, value in every_setting(attributes).items() if name in keys}
    for name, value in needed_settings(attributes).items():
        is_default = name == "transformers_version" or (name in FIELDS and value == FIELDS[name].default)
        if name not in keys and not is_default:
            settings[name] = value
    settings["model_type"] = "gpt2"
    old_names = {**ALIASES, "torch_dtype": "dtype"}
    for old, name in old_names.items():
        if old in keys and name not in keys:
            settings.pop(name, None)
            settings[old] = attributes[name]
    return settings
