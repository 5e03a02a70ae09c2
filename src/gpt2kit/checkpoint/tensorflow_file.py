"""Reading the checkpoints that OpenAI published, in TensorFlow's format, without TensorFlow.

NAME.index is a table (tensorflow_table.py) from tensor names to messages that say type, shape, place and
checksum; NAME.data-00000-of-00001 holds the numbers. NAME.meta, the graph, is not looked at. Every number is
checked against the files' sizes before it is used, every tensor against its checksum when it is first asked
for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2kit.checkpoint.crc32c import crc32c, unmask
from gpt2kit.checkpoint.dtypes import ITEM_BYTES, WEIGHT_DTYPES
from gpt2kit.checkpoint.mapped_file import MappedFile
from gpt2kit.checkpoint.names import name_in_tensorflow
from gpt2kit.checkpoint.safetensors_file import MAX_RANK, TensorInfo
from gpt2kit.checkpoint.tensorflow_table import Bytes, read_table
from gpt2kit.errors import CheckpointError

MAX_INDEX_BYTES = 16 * 2**20
_MAX_SHARDS = 4096
_MAX_SIZE = 2**63 - 1
_PIECE = 2**22  # bytes whose checksum is taken at a time
_NAME = re.compile(rb"[A-Za-z0-9_.][A-Za-z0-9_./\-]{0,255}")
# Numbers of TensorFlow's types; others are no weights, and strings have no fixed size.
_DTYPES = {
    1: "F32", 2: "F64", 3: "I32", 4: "U8", 5: "I16", 6: "I8", 9: "I64", 10: "BOOL", 14: "BF16", 17: "U16",
    19: "F16", 22: "U32", 23: "U64",
}  # fmt: skip


class TensorFlowFile:
    """One checkpoint whose index has been checked; `path` is NAME.index. `map()` makes the data readable.

    tensors: by their names here (names.py); a leading dimension of 1 of matrices is dropped. What is no
    weight keeps its name. Raises CheckpointError that names the file, the tensor and the reason.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self.tensors: dict[str, TensorInfo] = {}
        self._places: dict[str, tuple[int, int, int]] = {}  # shard, first byte, checksum
        self._verified: set[str] = set()
        table = read_table(self._read_index(), str(path))
        self._shards = self._open_shards(table.pop(b"", b""))
        try:
            self.size = sum(shard.size for shard in self._shards)
            for key, message in table.items():
                self._add(key, message)
            self._check_overlaps()
        except BaseException:
            self.close()
            raise

    def _read_index(self) -> bytes:
        file = MappedFile(self.path)
        try:
            if file.size > MAX_INDEX_BYTES:
                raise CheckpointError(f"{self.path} has {file.size} bytes; the limit is {MAX_INDEX_BYTES}")
            return file.stream.read(file.size)
        finally:
            file.close()

    def _open_shards(self, header: bytes) -> list[MappedFile]:
        fields = dict(_fields(header, f"{self.path}: the header"))
        num_shards, endianness = fields.get(1, 0), fields.get(2, 0)
        if type(num_shards) is not int or not 1 <= num_shards <= _MAX_SHARDS:
            raise CheckpointError(
                f"{self.path}: the number of data files is {num_shards!r}; allowed: 1 to {_MAX_SHARDS}"
            )
        if endianness != 0:
            raise CheckpointError(f"{self.path}: the numbers are big-endian; only little-endian is read")
        shards: list[MappedFile] = []
        try:
            for i in range(num_shards):
                shards.append(MappedFile(self.path.with_suffix(f".data-{i:05d}-of-{num_shards:05d}")))
        except BaseException:
            for shard in shards:
                shard.close()
            raise
        return shards

    def _add(self, key: bytes, message: bytes) -> None:
        if _NAME.fullmatch(key) is None:
            raise CheckpointError(f"{self.path}: {key[:80]!r} is no name of a tensor")
        stored = key.decode("ascii")
        where = f"{self.path}: tensor {stored[:80]!r}"
        numbers = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0}
        shape: tuple[int, ...] = ()
        for field, value in _fields(message, where):
            if field == 2 and isinstance(value, bytes):
                shape = _shape(value, where)
            elif field in numbers and isinstance(value, int):
                numbers[field] = value
            elif field == 7:
                raise CheckpointError(f"{where} is stored in slices, which are not read; save it whole")
        dtype = _DTYPES.get(numbers[1])
        if dtype is None:
            return
        shard, begin, nbytes = numbers[3], numbers[4], numbers[5]
        needed = ITEM_BYTES[dtype]
        for size in shape:
            needed *= size
        if needed != nbytes:
            raise CheckpointError(
                f"{where}: shape {shape} of {dtype} needs {needed} bytes, {nbytes} are stored"
            )
        if shard >= len(self._shards) or begin + nbytes > self._shards[shard].size:
            raise CheckpointError(f"{where}: {nbytes} bytes at {begin} of data file {shard} are not there")
        name = name_in_tensorflow(stored)
        if name != stored and len(shape) == 3 and shape[0] == 1:
            shape = shape[1:]  # OpenAI's convolutions of width 1
        if name in self.tensors:
            raise CheckpointError(f"{where} is there twice, under two names")
        self.tensors[name] = TensorInfo(name, dtype, shape, nbytes)
        self._places[name] = (shard, begin, numbers[6])

    def _check_overlaps(self) -> None:
        ends = dict.fromkeys(range(len(self._shards)), 0)
        for name in sorted(self._places, key=lambda n: (*self._places[n][:2], self.tensors[n].nbytes)):
            shard, begin, _ = self._places[name]
            if begin < ends[shard]:
                raise CheckpointError(f"{self.path}: the data of {name!r} lies inside another tensor's")
            ends[shard] = begin + self.tensors[name].nbytes

    def map(self, use_mmap: bool = True) -> None:
        """Make the data readable; see MappedFile.map."""
        for shard in self._shards:
            shard.map(use_mmap)

    def view(self, name: str) -> NDArray[Any]:
        """Give a read-only, C-contiguous view of one tensor of a weight dtype, without a copy.

        The first time, its checksum is verified. BF16 is given as its uint16 bits. KeyError for an unknown
        name.
        """
        info, (shard, begin, _) = self.tensors[name], self._places[name]
        if name not in self._verified:
            self._verify(name)
        flat = self._shards[shard].bytes(begin, begin + info.nbytes)
        return np.frombuffer(flat, WEIGHT_DTYPES[info.dtype]).reshape(info.shape)

    buffer = view

    def _verify(self, name: str) -> None:
        info, (shard, begin, masked) = self.tensors[name], self._places[name]
        crc = 0
        for start in range(begin, begin + info.nbytes, _PIECE):
            end = min(start + _PIECE, begin + info.nbytes)
            crc = crc32c(np.frombuffer(self._shards[shard].bytes(start, end), np.uint8), crc)
            self._shards[shard].release(start, end)
        if crc != unmask(masked):
            raise CheckpointError(
                f"{self._shards[shard].path}: the checksum of {name!r} is wrong; the file is damaged"
            )
        self._verified.add(name)

    def prefault(self) -> None:
        """Let the data be read ahead; see MappedFile.prefault."""
        for shard in self._shards:
            shard.prefault()

    def release(self, name: str, begin: int, end: int) -> None:
        """Give the memory of some bytes of a tensor back; they are read from the file again when used."""
        shard, start, _ = self._places[name]
        self._shards[shard].release(start + begin, start + end)

    def close(self) -> None:
        """Close the files of an index that was only looked at. Views that were given out stay valid."""
        for shard in self._shards:
            shard.close()


def _shape(message: bytes, where: str) -> tuple[int, ...]:
    """Read a TensorShapeProto."""
    shape = []
    for field, value in _fields(message, where):
        if field == 3 and value:
            raise CheckpointError(f"{where} has a shape of unknown rank")
        if field == 2 and isinstance(value, bytes):
            size = dict(_fields(value, where)).get(1, 0)
            if not isinstance(size, int) or size > _MAX_SIZE:
                raise CheckpointError(f"{where} has a size that is no whole number below 2^63")
            shape.append(size)
    if len(shape) > MAX_RANK:
        raise CheckpointError(f"{where} has {len(shape)} dimensions; the limit is {MAX_RANK}")
    return tuple(shape)


def _fields(message: bytes, where: str) -> Iterator[tuple[int, int | bytes]]:
    """Give number and value of each field of a protocol buffer message; integers, or bytes of the rest."""
    reader = Bytes(message, where)
    while not reader.is_at_end():
        tag = reader.varint()
        match tag & 7:
            case 0:
                yield tag >> 3, reader.varint()
            case 1:
                yield tag >> 3, int.from_bytes(reader.take(8), "little")
            case 2:
                yield tag >> 3, reader.take(reader.varint())
            case 5:
                yield tag >> 3, int.from_bytes(reader.take(4), "little")
            case kind:
                raise CheckpointError(f"{where} has a field of the unknown kind {kind}")
