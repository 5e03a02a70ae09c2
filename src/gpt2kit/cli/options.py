"""Options and input that several commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def model_option(command: Command) -> Command:
    """Add -m/--model."""
    return click.option(
        "-m",
        "--model",
        metavar="MODEL",
        help="A folder, or a name on the hub such as gpt2. Without it: the small built-in model.",
    )(command)


def debug_option(command: Command) -> Command:
    """Add --debug, which main() looks for."""
    return click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of a failure.")(
        command
    )


def json_option(command: Command) -> Command:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def compute_option(command: Command) -> Command:
    """Add --compute."""
    return click.option(
        "--compute",
        type=click.Choice(["auto", "float32", "bfloat16", "int16", "int8"]),
        help="What activations become before they meet the weights [auto].",
    )(command)


def kv_cache_option(command: Command) -> Command:
    """Add --kv-cache-dtype."""
    return click.option(
        "--kv-cache-dtype",
        type=click.Choice(["float32", "bfloat16", "int8"]),
        help="What keys and values are kept in [float32].",
    )(command)


def file_option(command: Command) -> Command:
    """Add -f/--file."""
    return click.option(
        "-f",
        "--file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Read the text from a file; - is stdin.",
    )(command)


def read_text(argument: str | None, file: Path | None, what: str) -> str:
    """Return the text from the argument, from -f FILE or from stdin ("-", or no terminal), in this order.

    One line end at the end of a file or of stdin is dropped: `echo` and editors put it there.
    """
    if argument is not None and file is not None:
        raise click.UsageError(f"Give the {what} as an argument or with -f, not both")
    if argument is not None and argument != "-":
        # Arguments may hold bytes that are no text; they arrive as lone surrogates.
        return os.fsencode(argument).decode("utf-8", errors="replace")
    if argument is None and file is None and sys.stdin.isatty():
        raise click.UsageError(f"No {what}: give it as an argument, with -f FILE, or on stdin")
    return read_file(file)


def read_file(file: Path | None) -> str:
    """Return the text of a file, or of stdin for "-" and None, without the line end at its end."""
    if file is None or str(file) == "-":
        return _decode(sys.stdin.buffer.read(), "stdin")
    if file.is_dir():
        raise click.ClickException(f"{file} is a folder; give a file")
    return _decode(file.read_bytes(), str(file))


def _decode(data: bytes, source: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.ClickException(
            f"{source} is not UTF-8 text (byte 0x{data[error.start]:02x} at {error.start}); "
            "convert it, e.g. with iconv"
        ) from error
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
