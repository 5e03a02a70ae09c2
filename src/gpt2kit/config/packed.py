"""quantization_config of a folder that is packed for the native engine: docs/formats.md. Knows no weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpt2kit.config.fields import refuse
from gpt2kit.errors import ConfigError

PACKED_METHOD = "gpt2kit"
PACKED_FORMATS = ("int8", "nf4")
PACKED_VERSION = 1


def packed_settings(format: str) -> dict[str, Any]:
    """Give the quantization_config of a format."""
    return {"quant_method": PACKED_METHOD, "format": format, "version": PACKED_VERSION}


def is_packed(quantization_config: object) -> bool:
    """Tell whether a quantization_config speaks of a packed folder."""
    return (
        isinstance(quantization_config, Mapping) and quantization_config.get("quant_method") == PACKED_METHOD
    )


def check_packed_settings(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for settings of a packed folder that this version does not read."""
    version, format = settings.get("version"), settings.get("format")
    if type(version) is not int or version != PACKED_VERSION:
        reason = f"{PACKED_VERSION}; a newer gpt2kit wrote this folder, or quantise the original again"
        raise refuse("version", version, reason)
    if type(format) is not str or format not in PACKED_FORMATS:
        raise refuse("format", format, ", ".join(PACKED_FORMATS))
    unknown = sorted(map(str, settings.keys() - packed_settings(format).keys()))
    if unknown:
        raise ConfigError(f"{', '.join(unknown)[:80]}: no such setting of a packed folder")


def packed_format(config: object) -> str | None:
    """Give the format of a packed folder by its configuration; None for any other model."""
    settings = getattr(config, "quantization_config", None)
    if not isinstance(settings, Mapping) or not is_packed(settings):
        return None
    check_packed_settings(settings)
    return str(settings["format"])


def refuse_packed(config: object) -> None:
    """Raise ConfigError for a packed folder, which torch cannot run."""
    if packed_format(config) is not None:
        raise ConfigError(
            "the folder is packed for the native engine: use load_engine() or a pipeline with engine='native', "
            "or load the folder that it was made of"
        )
