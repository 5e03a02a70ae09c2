"""What commands say and to whom: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from typing import Any, TextIO

_NAME = "gpt2kit"


class OutputClosed(Exception):
    """The reader of the output has gone, as in `gpt2kit ... | head -1`."""


def set_up_streams() -> None:
    """Let output never fail on a character that its encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def notice(message: str) -> None:
    """Say something on stderr."""
    _say(f"{_NAME}: {message}")


def complain(message: str, path: str = _NAME) -> None:
    """Report a failure on one line of stderr, in red where that is welcome."""
    label = "\x1b[31merror:\x1b[0m" if _wants_color(sys.stderr) else "error:"
    _say(f"{path}: {label} {_one_line(message)}")


def print_json(value: Any, indent: int | None = 2) -> None:
    """Print a JSON value to stdout, with characters as they are where stdout can show them.

    indent: spaces a level, or None for one line.
    """
    is_unicode = "utf" in (getattr(sys.stdout, "encoding", None) or "").lower()
    print(json.dumps(value, indent=indent, ensure_ascii=not is_unicode))


def visible(text: str) -> str:
    """Write control characters as escapes, so that a terminal shows generated text and never obeys it.

    Newlines and tabs stay. Direction overrides are escaped too: they can make a line read as something else.
    """
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if character in "\n\t" or character.isprintable():
        return character
    category = unicodedata.category(character)
    if category == "Cc" or character in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069":
        return character.encode("unicode_escape").decode("ascii")
    return character


def _one_line(message: str) -> str:
    return visible(" ".join(message.split()))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _wants_color(stream: TextIO) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"
