"""Reading one safetensors file: a header that is believed only after every number in it is checked.

The format: 8 bytes little-endian length N, N bytes of JSON, then the data. The JSON gives each tensor's
dtype, shape and [begin, end) offsets in the data. Here the tensors must fill the data exactly, in some order,
without overlap or hole, so that no byte of the file is unaccounted for and no byte outside it is ever read.
Nothing larger than the header is allocated before all checks have passed.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt2kit.checkpoint.dtypes import BUFFER_FORMATS, ITEM_BYTES, STORED_DTYPES
from gpt2kit.checkpoint.mapped_file import MappedFile
from gpt2kit.errors import CheckpointError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_HEADER_BYTES = 100_000_000  # the format's own limit; most of it may only be padding
MAX_JSON_BYTES = 4 * 2**20  # a GPT-2 with 1024 layers and cross-attention needs 3 MB
# That GPT-2 has 22,500 tensors of five strings, two lists, one object and at most seven commas. A header with
# more is a way to use up time and memory.
MAX_JSON_PARTS = {b'"': 240_000, b"[": 50_000, b"{": 25_000, b",": 200_000}
MAX_RANK = 8
_MAX_SIZE = 2**63 - 1
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,255}")
_CHUNK = 2**16


@dataclass(frozen=True)
class TensorInfo:
    """What a file says of one tensor. dtype is "F32", "F16", "BF16", ...; shape in elements."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class SafetensorsFile:
    """One safetensors file whose header has been checked. `map()` makes the data readable.

    identity, changed_ns: see MappedFile.

    Raises CheckpointError that names the file, the tensor and the reason.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = MappedFile(path)
        self.path, self.size = self._file.path, self._file.size
        self.identity, self.changed_ns = self._file.identity, self._file.changed_ns
        try:
            self._parse(self._read_header())
        except BaseException:
            self._file.close()
            raise

    def _read_header(self) -> bytes:
        first = self._file.stream.read(8)
        if len(first) < 8:
            raise CheckpointError(f"{self.path} has {self.size} bytes; a safetensors file has at least 8")
        length = int.from_bytes(first, "little")
        if length > MAX_HEADER_BYTES:
            raise self._bad_header(f"claims {length} bytes; the limit is {MAX_HEADER_BYTES}")
        if 8 + length > self.size:
            raise self._bad_header(f"claims {length} bytes, but the file has {self.size} in all")
        self._data_start = 8 + length
        text = self._read_exactly(min(length, MAX_JSON_BYTES + 1))
        remaining = length - len(text)
        while remaining:
            chunk = self._read_exactly(min(remaining, _CHUNK))
            if chunk.strip(b" "):
                raise self._bad_header(
                    f"has more than {MAX_JSON_BYTES} bytes of JSON; no GPT-2 needs as much"
                )
            remaining -= len(chunk)
        text = text.rstrip(b" ")
        if len(text) > MAX_JSON_BYTES:
            raise self._bad_header(f"has more than {MAX_JSON_BYTES} bytes of JSON; no GPT-2 needs as much")
        return text

    def _read_exactly(self, count: int) -> bytes:
        data = self._file.stream.read(count)
        if len(data) != count:  # regular files give all that was asked unless they end
            raise CheckpointError(f"{self.path} became shorter while it was read")
        return data

    def _parse(self, text: bytes) -> None:
        if not text.startswith(b"{"):
            raise self._bad_header("does not start with '{'")
        for part, limit in MAX_JSON_PARTS.items():
            if text.count(part) > limit:
                raise self._bad_header(f"has more than {limit} of {part.decode()}; no GPT-2 has as many")
        try:
            header = json.loads(text.decode("utf-8"), object_pairs_hook=self._unique)
        except RecursionError:
            raise self._bad_header("is nested too deeply") from None
        except CheckpointError:
            raise
        except ValueError as error:
            reason = f"{error}"[:200]
            raise self._bad_header(f"is not JSON in UTF-8: {reason}") from None
        self.metadata = self._checked_metadata(header.pop("__metadata__", None))
        self.tensors: dict[str, TensorInfo] = {}
        self._begins: dict[str, int] = {}
        for name, entry in header.items():
            self._add(name, entry)
        self._check_layout()

    def _unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    raise self._bad_header(f"has the key {name[:80]!r} twice")
                seen.add(name)
        return result

    def _checked_metadata(self, metadata: Any) -> dict[str, str]:
        if metadata is None:
            return {}
        if type(metadata) is not dict or any(type(value) is not str for value in metadata.values()):
            raise self._bad_header("has a __metadata__ that is not a mapping from strings to strings")
        return metadata

    def _add(self, name: str, entry: Any) -> None:
        if _NAME.fullmatch(name) is None:
            raise self._bad(
                name, "a name is 1 to 256 of the characters A-Z a-z 0-9 _ . - and starts with no dot"
            )
        if type(entry) is not dict or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise self._bad(name, "an entry has exactly dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if type(dtype) is not str or dtype not in ITEM_BYTES:
            raise self._bad(name, f"dtype is {_short(dtype)}; allowed: {', '.join(ITEM_BYTES)}")
        if type(shape) is not list or len(shape) > MAX_RANK:
            raise self._bad(name, f"shape is {_short(shape)}; allowed: a list of at most {MAX_RANK} sizes")
        nbytes = ITEM_BYTES[dtype]
        for size in shape:
            if type(size) is not int or not 0 <= size <= _MAX_SIZE:
                raise self._bad(name, f"shape {_short(shape)} has a size that is no whole number below 2^63")
            nbytes *= size
        if nbytes > self.size:
            raise self._bad(
                name, f"shape {_short(shape)} of {dtype} needs {nbytes} bytes, more than the file has"
            )
        if type(offsets) is not list or len(offsets) != 2 or any(type(o) is not int for o in offsets):
            raise self._bad(name, f"data_offsets is {_short(offsets)}; allowed: two whole numbers")
        begin, end = offsets
        data_bytes = self.size - self._data_start
        if not 0 <= begin <= end <= data_bytes:
            where = f"data_offsets {_short(offsets)} are not in order inside the {data_bytes} bytes of data"
            raise self._bad(name, where)
        if end - begin != nbytes:
            what = f"shape {_short(shape)} of {dtype} needs {nbytes} bytes"
            raise self._bad(name, f"{what}, but data_offsets {_short(offsets)} span {end - begin}")
        self.tensors[name] = TensorInfo(name, dtype, tuple(shape), nbytes)
        self._begins[name] = begin

    def _check_layout(self) -> None:
        position = 0
        for name in sorted(self.tensors, key=lambda n: (self._begins[n], self.tensors[n].nbytes)):
            begin = self._begins[name]
            if begin < position:
                raise self._bad(
                    name, f"its data starts at {begin}, inside another tensor's, which ends at {position}"
                )
            if begin > position:
                raise self._bad(name, f"its data starts at {begin}, leaving a hole after byte {position}")
            position += self.tensors[name].nbytes
        if position != self.size - self._data_start:
            extra = self.size - self._data_start - position
            raise CheckpointError(f"{self.path} has {extra} bytes after its last tensor that belong to none")

    def map(self, use_mmap: bool = True) -> None:
        """Make the data readable; see MappedFile.map."""
        self._file.map(use_mmap)

    def view(self, name: str) -> NDArray[Any]:
        """Give a read-only, C-contiguous view of one tensor of a dtype in STORED_DTYPES, without a copy.

        The view keeps the file's data alive. Its address is aligned to the item only when the writer aligned
        it (`flags.aligned`). BF16 is given as its uint16 bits. KeyError for an unknown name.
        """
        import numpy as np

        info = self.tensors[name]
        return np.frombuffer(self._bytes(info), STORED_DTYPES[info.dtype]).reshape(info.shape)

    def buffer(self, name: str) -> memoryview | NDArray[Any]:
        """Give what view() gives, as a memoryview where Python itself has the format: numpy need not be there."""
        info = self.tensors[name]
        if info.dtype not in BUFFER_FORMATS or 0 in info.shape:
            return self.view(name)
        data: Any = self._bytes(info)  # cast is declared for literal formats only
        tensor: memoryview = data.cast(BUFFER_FORMATS[info.dtype], info.shape)
        return tensor

    def _bytes(self, info: TensorInfo) -> memoryview:
        begin = self._data_start + self._begins[info.name]
        return self._file.bytes(begin, begin + info.nbytes)

    def release(self, name: str, begin: int, end: int) -> None:
        """Give the memory of some bytes of a tensor back; they are read from the file again when used."""
        start = self._data_start + self._begins[name]
        self._file.release(start + begin, start + end)

    def prefault(self) -> None:
        """Let the data be read ahead; see MappedFile.prefault."""
        self._file.prefault()

    def digest(self) -> str:
        """Give the SHA-256 of the whole file; see MappedFile.digest."""
        return self._file.digest()

    def is_unchanged(self) -> bool:
        """Tell whether the file on disk is still the one that was opened, as it was then."""
        return self._file.is_unchanged()

    def close(self) -> None:
        """Close the file of a header that was only looked at. Views that were given out stay valid."""
        self._file.close()

    def _bad_header(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: the header {reason}")

    def _bad(self, name: str, reason: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: tensor {_short(name)}: {reason}")


def _short(value: Any) -> str:
    if isinstance(value, list):
        items = ("[...]" if isinstance(item, (list, dict)) else _short(item) for item in value[:9])
        return "[" + ", ".join(items) + (", ...]" if len(value) > 9 else "]")
    if isinstance(value, dict):
        return "an object"
    text = repr(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 90 else text[:87] + "..."
