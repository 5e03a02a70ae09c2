"""How much gpt2kit says: the functions of Transformers' logging module, over Python's own.

gpt2kit logs to the logger "gpt2kit" and those below it, and tells what may surprise by warnings of the class
GPT2Warning. Until a script calls one of these functions nothing here is set up: the application's own settings hold.
"""

from __future__ import annotations

import functools
import logging
import os
import warnings
from typing import Any

from gpt2kit.errors import GPT2Warning

CRITICAL = logging.CRITICAL
FATAL = logging.FATAL
ERROR = logging.ERROR
WARNING = logging.WARNING
WARN = logging.WARNING
INFO = logging.INFO
DEBUG = logging.DEBUG
NOTSET = logging.NOTSET

log_levels = {
    "detail": DEBUG,
    "debug": DEBUG,
    "info": INFO,
    "warning": WARNING,
    "error": ERROR,
    "critical": CRITICAL,
}

_root = logging.getLogger("gpt2kit")
_PLAIN = logging.Formatter("[%(levelname)s|%(name)s] %(message)s")
_EXPLICIT = logging.Formatter("[%(levelname)s|%(filename)s:%(lineno)s] %(asctime)s >> %(message)s")
_handler = logging.StreamHandler()  # to stderr
_handler.setFormatter(_PLAIN)


def get_logger(name: str | None = None) -> logging.Logger:
    """Return a logger, by default gpt2kit's own, that also has warning_once, info_once and warning_advice."""
    logger = logging.getLogger(name or "gpt2kit")
    for method in (warning_once, info_once, warning_advice):
        setattr(logger, method.__name__, functools.partial(method, logger))
    return logger


@functools.lru_cache(None)
def warning_once(logger: logging.Logger, message: str, *args: Any) -> None:
    """Warn, but of the same only once."""
    logger.warning(message, *args, stacklevel=2)


@functools.lru_cache(None)
def info_once(logger: logging.Logger, message: str, *args: Any) -> None:
    """Inform, but of the same only once."""
    logger.info(message, *args, stacklevel=2)


def warning_advice(logger: logging.Logger, message: str, *args: Any) -> None:
    """Warn, unless the environment variable TRANSFORMERS_NO_ADVISORY_WARNINGS is set."""
    if not os.environ.get("TRANSFORMERS_NO_ADVISORY_WARNINGS"):
        logger.warning(message, *args, stacklevel=2)


def get_verbosity() -> int:
    """Return the level from which on messages are shown."""
    return _root.getEffectiveLevel()


def set_verbosity(verbosity: int) -> None:
    """Show messages from a level on, one of this module's numbers; above WARNING no GPT2Warning either."""
    was_silent = _root.level > WARNING
    enable_default_handler()
    _root.setLevel(verbosity)
    if verbosity > WARNING:
        warnings.simplefilter("ignore", GPT2Warning)
    elif was_silent:
        warnings.simplefilter("default", GPT2Warning)


def set_verbosity_debug() -> None:
    """Show everything."""
    set_verbosity(DEBUG)


def set_verbosity_info() -> None:
    """Show what happens, such as which engine runs and why."""
    set_verbosity(INFO)


def set_verbosity_warning() -> None:
    """Show warnings and errors, as by default."""
    set_verbosity(WARNING)


def set_verbosity_error() -> None:
    """Show errors alone."""
    set_verbosity(ERROR)


def get_log_levels_dict() -> dict[str, int]:
    """Return the names of levels and their numbers."""
    return log_levels


def enable_default_handler() -> None:
    """Write gpt2kit's messages to stderr, and no longer to the handlers of the application."""
    if _handler not in _root.handlers:
        _root.addHandler(_handler)
        _root.propagate = False


def disable_default_handler() -> None:
    """Take back what enable_default_handler() did."""
    _root.removeHandler(_handler)
    _root.propagate = True


def add_handler(handler: logging.Handler) -> None:
    """Give gpt2kit's messages to a handler too."""
    _root.addHandler(handler)


def remove_handler(handler: logging.Handler) -> None:
    """Take a handler away again."""
    _root.removeHandler(handler)


def enable_propagation() -> None:
    """Give gpt2kit's messages to the handlers of the application too."""
    _root.propagate = True


def disable_propagation() -> None:
    """Keep gpt2kit's messages from the handlers of the application."""
    _root.propagate = False


def enable_explicit_format() -> None:
    """Show file, line and time of each message."""
    for handler in _root.handlers:
        handler.setFormatter(_EXPLICIT)


def reset_format() -> None:
    """Show messages plainly again."""
    for handler in _root.handlers:
        handler.setFormatter(_PLAIN)


def captureWarnings(capture: bool) -> None:  # the name in Python's logging
    """Turn all of Python's warnings into log messages of the logger "py.warnings", or stop that."""
    logger = logging.getLogger("py.warnings")
    logger.handlers = [handler for handler in logger.handlers if handler not in _root.handlers]
    if capture:
        logger.handlers += _root.handlers
    logger.setLevel(_root.level)
    logging.captureWarnings(capture)


def enable_progress_bar() -> None:
    """Show huggingface_hub's bars for downloads."""
    from huggingface_hub.utils.tqdm import enable_progress_bars

    enable_progress_bars()


def disable_progress_bar() -> None:
    """Show no bars."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()


def is_progress_bar_enabled() -> bool:
    """Tell whether bars are shown."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled

    return not are_progress_bars_disabled()
