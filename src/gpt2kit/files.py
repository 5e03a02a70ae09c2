"""Writing files so that a crash leaves the old file or the new one, never half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary sibling of `path` for writing and move it into place when the block ends well.

    The order is the one that survives a power cut: write, flush, fsync the file, rename, fsync the folder.
    The sibling is in the destination folder because a rename across file systems is a copy. When the block
    raises, the sibling is removed and what was at `path` stays as it was.
    """
    final = Path(path)
    temporary = final.with_name(f".{final.name}.{os.urandom(6).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(final.parent)


def fsync_folder(folder: str | os.PathLike[str]) -> None:
    """Make the renames and removals in `folder` durable. Does nothing where folders cannot be opened."""
    flags = getattr(os, "O_DIRECTORY", None)
    if flags is None:  # Windows: NTFS journals the rename, and a folder has no descriptor to flush
        return
    descriptor = os.open(folder, os.O_RDONLY | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
