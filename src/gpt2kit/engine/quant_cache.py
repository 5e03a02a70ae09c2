"""What quantising at load has made, kept for the next load: packed folders, named by what they were made of.

    FOLDER/packed/NAME/         a packed folder (docs/formats.md) without tokenizer; NAME is the SHA-256 of the format
                                and of the content, names and shapes of the weights that it was made of
    FOLDER/digests/IDENTITY     the SHA-256 of a weights file that was hashed once, by its device, inode, size and times

FOLDER is GPT2KIT_CACHE, else gpt2kit in XDG_CACHE_HOME or ~/.cache. The cache never makes a load fail: what cannot
be read is made again, what cannot be written is not kept. All of it may be deleted at any time.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2kit.checkpoint.safetensors_file import SafetensorsFile
from gpt2kit.config.packed import PACKED_VERSION
from gpt2kit.errors import GPT2Error
from gpt2kit.files import atomic_write

if TYPE_CHECKING:
    from gpt2kit.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

VARIABLE = "GPT2KIT_CACHE"
LIMIT_BYTES = 20 * 10**9  # of all entries; the ones used longest ago go first
LEAST_BYTES = 2**26  # weights files below this are quantised sooner than an entry is found
_ARITHMETIC = 1  # another number when quantising gives other bits for the same weights
_OFF = ("off", "no", "false", "0")
_SETTLED_NS = 2 * 10**9  # a file may change once more within the resolution of its times
_ABANDONED_S = 24 * 3600.0  # unfinished folders of processes that were killed
_MAX_DIGESTS = 1000


def cache_folder() -> Path | None:
    """Give the folder of the cache, which need not exist; None where it is switched off or nobody is at home."""
    given = os.environ.get(VARIABLE)
    if given:
        return None if given.lower() in _OFF else Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "gpt2kit"
    except RuntimeError:
        return None


def entries(folder: Path) -> dict[Path, int]:
    """Give the entries of a cache, the ones used longest ago first, and the bytes of each."""
    found = []
    for entry in _children(folder / "packed"):
        if not entry.name.startswith("."):
            try:
                size = sum(file.stat().st_size for file in entry.iterdir())
                found.append((entry.stat().st_mtime, entry, size))
            except OSError:  # another process removes it just now
                continue
    return {entry: size for _, entry, size in sorted(found)}


def through_cache(
    checkpoint: Checkpoint,
    names: list[str],
    format: str,
    quantize: Callable[[], dict[str, Any]],
    read: Callable[[Path], dict[str, Any]],
    write: Callable[[Path, dict[str, Any]], object],
) -> dict[str, Any]:
    """Give the weights of these names in a packed format: of an entry that fits, else what quantize() gives.

    read: gives the weights of a packed folder, or raises a GPT2Error.  write: writes them as one.
    Only weights that lie in safetensors files, of LEAST_BYTES and more, are looked for and kept.
    """
    folder = cache_folder()
    name = None
    if (
        folder is not None
        and checkpoint.file_bytes >= LEAST_BYTES
        and _has_room(folder, checkpoint.file_bytes)
    ):
        name = _entry_name(checkpoint, names, format, folder)
    if folder is None or name is None:
        return quantize()
    entry = folder / "packed" / name
    found = _read(entry, read)
    if found is not None:
        return found
    weights = quantize()
    try:
        if not _is_settled(checkpoint, names):
            raise OSError("the weights file has changed meanwhile")
        if sum(array.nbytes for array in weights.values()) > LIMIT_BYTES:
            raise OSError(f"it is larger than the limit of {LIMIT_BYTES} bytes")
        entry.parent.mkdir(parents=True, exist_ok=True)
        write(entry, weights)
        _make_room(folder, entry)
    except (OSError, GPT2Error) as error:
        logger.info("%s is not kept in the cache: %s", format, error)
    # Pages of a file are shared between processes, and given back when memory is short.
    found = _read(entry, read)
    return weights if found is None else found


def _has_room(folder: Path, size: int) -> bool:
    """Tell whether a folder, made if need be, can be written to. Hashing a file in vain takes longer than quantising."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        disk = os.statvfs(folder)
    except OSError as error:
        logger.info("the cache is not used: %s", error)
        return False
    return os.access(folder, os.W_OK) and disk.f_bavail * disk.f_frsize >= size


def _entry_name(checkpoint: Checkpoint, names: list[str], format: str, folder: Path) -> str | None:
    """Give the name of what these weights become; None where it cannot be known."""
    import hashlib

    digests: dict[Path, str] = {}
    described = []
    for name in names:
        file, name_in_file = checkpoint.source(name)
        if not isinstance(file, SafetensorsFile):
            return None
        if file.path not in digests:
            digests[file.path] = _digest(file, folder)
        info = checkpoint.info(name)
        described.append([name, info.dtype, info.shape, name_in_file, digests[file.path]])
    text = json.dumps([format, PACKED_VERSION, _ARITHMETIC, described])
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(file: SafetensorsFile, folder: Path) -> str:
    """Give the SHA-256 of a file's content, remembered by what a change of the content changes too."""
    path = folder / "digests" / file.identity
    try:
        remembered = path.read_text("ascii")
        if len(remembered) == 64 and set(remembered) <= set("0123456789abcdef"):
            return remembered
    except (OSError, UnicodeDecodeError):
        pass
    hashed_from = time.time_ns()
    digest = file.digest()
    if hashed_from - file.changed_ns > _SETTLED_NS and file.is_unchanged():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as stream:
                stream.write(digest.encode())
            for old in _oldest(path.parent)[:-_MAX_DIGESTS]:
                old.unlink(missing_ok=True)
        except OSError as error:
            logger.info("the hash of %s is not kept in the cache: %s", file.path, error)
    return digest


def _is_settled(checkpoint: Checkpoint, names: list[str]) -> bool:
    files = {id(file): file for file, _ in map(checkpoint.source, names)}
    return all(isinstance(file, SafetensorsFile) and file.is_unchanged() for file in files.values())


def _read(entry: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any] | None:
    """Read an entry, if there is one; remove it, if it is damaged."""
    if not entry.is_dir():
        return None
    try:
        weights = read(entry)
    except (GPT2Error, OSError) as error:
        logger.info("%s is damaged and made again: %s", entry, error)
        _remove(entry)
        return None
    with suppress(OSError):  # it may be another user's, or read-only
        os.utime(entry)
    return weights


def _make_room(folder: Path, kept: Path) -> None:
    sizes = entries(folder)
    total = sum(sizes.values())
    for entry, size in sizes.items():
        if total > LIMIT_BYTES and entry != kept:
            _remove(entry)
            total -= size
    for path in _children(folder / "packed"):
        if path.name.startswith(".") and time.time() - path.stat().st_mtime > _ABANDONED_S:
            _remove(path)


def _remove(entry: Path) -> None:
    import shutil

    shutil.rmtree(entry, ignore_errors=True)


def _children(folder: Path) -> Iterator[Path]:
    try:
        yield from folder.iterdir()
    except OSError:
        return


def _oldest(folder: Path) -> list[Path]:
    """List the files of a folder, the oldest first."""
    return sorted(_children(folder), key=lambda path: path.stat().st_mtime)
