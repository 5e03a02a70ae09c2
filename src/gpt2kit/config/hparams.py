"""hparams.json: the configuration file that stands beside OpenAI's own checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2kit.errors import ConfigError

CONFIG_NAME = "config.json"
HPARAMS_NAME = "hparams.json"
_NAMES = {
    "n_vocab": "vocab_size",
    "n_ctx": "n_positions",
    "n_embd": "n_embd",
    "n_head": "n_head",
    "n_layer": "n_layer",
}


def config_file(folder: Path) -> Path:
    """Give the file with a model's configuration: config.json, or hparams.json where only that is there."""
    hparams = folder / HPARAMS_NAME
    return hparams if hparams.is_file() and not (folder / CONFIG_NAME).exists() else folder / CONFIG_NAME


def settings_of_hparams(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Give the settings of a GPT2Config that an hparams.json stands for. Raises ConfigError."""
    if hparams.keys() != _NAMES.keys():
        raise ConfigError(f"it has the keys {', '.join(sorted(hparams))[:200]}; expected {', '.join(_NAMES)}")
    settings = {name: hparams[given] for given, name in _NAMES.items()}
    if type(settings["vocab_size"]) is int:
        # <|endoftext|> is the last of OpenAI's tokens.
        settings["bos_token_id"] = settings["eos_token_id"] = settings["vocab_size"] - 1
    return settings
