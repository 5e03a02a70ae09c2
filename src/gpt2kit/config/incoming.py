"""Settings as they arrive, from a file or a caller: what is dropped, renamed, overridden or refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpt2kit.config.fields import FIELDS, GENERATION_KEYS, is_code_key
from gpt2kit.errors import ConfigError

ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
_CONSTRUCTOR_ONLY = ("num_labels", "attn_implementation", "output_attentions", "name_or_path")


def accept(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Copy settings under their first names, without those of generation and those that name code.

    Raises ConfigError for another model than GPT-2, for settings that are not supported and for one setting
    that is given twice with two values.
    """
    dropped = sorted(name for name in settings if name in GENERATION_KEYS or is_code_key(name))
    if dropped:
        import logging

        logging.getLogger("gpt2kit").info("configuration: ignored %s", ", ".join(map(repr, dropped)))
    given = {
        name: value if name == "quantization_config" else _without_code(value)  # it knows all its keys
        for name, value in settings.items()
        if name not in dropped
    }
    if "_name_or_path" in settings:  # the one private name that is a mere text, in files of Transformers 4
        given.setdefault("name_or_path", settings["_name_or_path"])
    for alias, name in ALIASES.items():
        if alias in given and given.setdefault(name, given[alias]) != given.pop(alias):
            raise ConfigError(f"{name} and {alias} are two names of one setting and differ; give one")
    legacy_dtype = given.pop("torch_dtype", None)
    if given.get("dtype") is None:
        given["dtype"] = legacy_dtype
    model_type = given.pop("model_type", "gpt2")
    if model_type != "gpt2":
        raise ConfigError(f"model_type is {str(model_type)[:80]!r}; allowed: 'gpt2', this is GPT-2 only")
    if given.pop("per_layer_config", None):
        raise ConfigError("per_layer_config is not supported: all layers of a GPT-2 here have one shape")
    if given.get("quantization_config", 0) is None:
        del given["quantization_config"]
    return given


def override(content: Mapping[str, Any], changes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Merge a caller's changes into the content of a file.

    Gives the settings and the changes that name no setting of this content.
    """
    settings, unused = {str(name): value for name, value in content.items()}, {}
    second_names = {name: alias for alias, name in ALIASES.items()}
    for given, value in changes.items():
        name = ALIASES.get(given, given)
        if name in ("torch_dtype", "dtype"):
            if value != "auto":
                settings.pop("torch_dtype", None)
                settings["dtype"] = value
        elif name in FIELDS or name in _CONSTRUCTOR_ONLY or name in settings:
            settings.pop(second_names.get(name, ""), None)
            settings[name] = value
        else:
            unused[given] = value
    return settings, unused


def refuse_unused(unused: Mapping[str, Any]) -> None:
    """Raise ConfigError when a caller's changes name no setting."""
    if unused:
        raise ConfigError(
            f"{', '.join(sorted(unused))}: no such setting in this configuration; assign it as an attribute "
            "to add it, or pass return_unused_kwargs=True"
        )


def _without_code(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_code(v) for k, v in value.items() if not (isinstance(k, str) and is_code_key(k))}
    return [_without_code(item) for item in value] if isinstance(value, list) else value
