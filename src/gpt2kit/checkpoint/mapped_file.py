"""One file as bytes: mapped into memory or read into it, with pages that can be given back."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path
from typing import BinaryIO

from gpt2kit import _native
from gpt2kit.errors import CheckpointError

_PIECE = 2**24  # bytes: what is hashed at a time


class MappedFile:
    """An ordinary file that is open for reading. `map()` makes its bytes readable and closes it.

    path, size: of the file.  stream: to look at it before it is mapped.  identity: device, inode, size and times as
    it was opened: another file, and another content, has another one.  changed_ns: the later of those times.
    Raises CheckpointError when it cannot be opened or is no ordinary file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        # A named pipe would make an ordinary open wait forever.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(path, flags)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be opened: {error.strerror or error}") from None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise CheckpointError(f"{path} is not an ordinary file")
        self.size = status.st_size
        self.identity = _identity(status)
        self.changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
        self.stream: BinaryIO = os.fdopen(descriptor, "rb")
        self._data: memoryview | None = None
        self._mapping: mmap.mmap | None = None

    def map(self, use_mmap: bool = True) -> None:
        """Make the data readable: map the file, or with `use_mmap` false copy it into memory.

        A mapping costs no memory of its own, is shared between processes and is filled on demand. While it is
        in use the file must not be truncated in place: the system would kill the process (SIGBUS). Replacing
        the file by a rename is safe. Raises CheckpointError when the file has changed its size meanwhile.
        """
        descriptor = self.stream.fileno()
        try:
            if use_mmap and self.size:
                # The view keeps the mapping alive, the mapping its own duplicate of the descriptor.
                self._mapping = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
                self._data = memoryview(self._mapping)
            else:
                self.stream.seek(0)
                self._data = memoryview(self.stream.read())
            complete = os.fstat(descriptor).st_size == self.size == len(self._data)
        finally:
            self.stream.close()
        if not complete:
            self._data = None
            raise CheckpointError(f"{self.path} changed its size while it was opened; open it again")

    def bytes(self, begin: int, end: int) -> memoryview:
        """Give a read-only view of some bytes; it keeps the file's data alive."""
        if self._data is None:
            raise CheckpointError(f"{self.path} has not been mapped: call map() first")
        return self._data[begin:end]

    def prefault(self) -> None:
        """Let a thread of its own read the file and map its pages, as all of them will be used soon."""
        if self._mapping is not None and self._data is not None:
            _native.prefault(self._data)

    def digest(self) -> str:
        """Give the SHA-256 of the content in hexadecimal digits; takes seconds for gigabytes."""
        import hashlib

        result = hashlib.sha256()
        for begin in range(0, self.size, _PIECE):
            end = min(begin + _PIECE, self.size)
            result.update(self.bytes(begin, end))
            self.release(begin, end)
        return result.hexdigest()

    def is_unchanged(self) -> bool:
        """Tell whether what is at the path now is the file that was opened, as it was then."""
        try:
            return _identity(os.stat(self.path)) == self.identity
        except OSError:
            return False

    def release(self, begin: int, end: int) -> None:
        """Give the memory of some bytes back; they are read from the file again when they are used."""
        if self._mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            start = begin // mmap.PAGESIZE * mmap.PAGESIZE
            self._mapping.madvise(mmap.MADV_DONTNEED, start, end - start)

    def close(self) -> None:
        """Close a file that was only looked at. Views that were given out stay valid."""
        self.stream.close()


def _identity(status: os.stat_result) -> str:
    # A change moves the time of change (ctime), which nobody can set back.
    parts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return "-".join(f"{part:x}" for part in parts)
