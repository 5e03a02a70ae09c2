"""config.json as plain data: size, depth, duplicate and encoding checks. Knows no key."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from gpt2kit.errors import ConfigError

MAX_FILE_BYTES = 16 * 2**20
MAX_DEPTH = 32
# JSON has no infinities: Transformers 5 writes them as {"__float__": "Infinity"}.
_FLOAT_TAG = "__float__"
_TAGGED = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def read_json_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises ConfigError when the file is missing, too large (over 16 MiB), not UTF-8, not JSON, not an object,
    nested deeper than 32 or has the same key twice in one object.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; give a folder that holds config.json") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_FILE_BYTES} bytes, the limit for a configuration")
    return parse_json_object(data, str(path))


def parse_json_object(data: bytes, source: str) -> dict[str, Any]:
    """Parse the bytes of one JSON object; `source` names them in errors. Same checks as read_json_object."""
    import json

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ConfigError(f"{source} has the key {twice!r} twice in one object; keep one")
        return result

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
        if type(value) is not dict:
            raise ConfigError(f"{source} holds a JSON {type(value).__name__}; a configuration is an object")
        return {key: _plain(item, MAX_DEPTH - 1) for key, item in value.items()}
    except ConfigError:
        raise
    except RecursionError:
        raise ConfigError(f"{source} is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:  # covers bad UTF-8, bad JSON and integers of thousands of digits
        raise ConfigError(f"{source} is not JSON in UTF-8: {error}") from None


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, (dict, list)) and depth == 0:
        raise RecursionError
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(tag := value.get(_FLOAT_TAG), str) and tag in _TAGGED:
            return _TAGGED[tag]
        return {key: _plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, depth - 1) for item in value]
    return value


def to_json_text(settings: dict[str, Any]) -> str:
    """Write settings as Transformers does: two spaces, sorted keys, tagged infinities, a final newline.

    Raises ConfigError when a value has no JSON form.
    """
    import json

    try:
        return json.dumps(_tagged(settings), indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a setting cannot be written as JSON: {error}; use plain values") from None


def write_json(path: str | os.PathLike[str], text: str) -> None:
    """Write the text of a configuration to `path` atomically."""
    from gpt2kit.files import atomic_write

    with atomic_write(Path(path)) as file:
        file.write(text.encode("utf-8"))


def _tagged(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT_TAG: "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, dict):
        return {key: _tagged(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_tagged(item) for item in value]
    return value
