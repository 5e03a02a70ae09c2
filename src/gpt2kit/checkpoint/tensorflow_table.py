"""The index of a TensorFlow checkpoint: a sorted table of byte strings in LevelDB's format, read in full.

Read from the end: a footer of 48 bytes says where the index block is; each of its entries says where a data
block is; each of theirs is a key and a value. A block is entries, a list of restart points, one byte for the
compression and a masked CRC-32C. A key is stored as the part that differs from the key before it.
"""

from __future__ import annotations

import numpy as np

from gpt2kit.checkpoint.crc32c import crc32c, unmask
from gpt2kit.errors import CheckpointError

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5
_MAX_BLOCKS = 4096
_MAX_ENTRIES = 100_000  # a GPT-2 with 1024 layers and an optimizer's two slots has 37,000
_MAX_KEY_BYTES = 256


class Bytes:
    """A position in some bytes, from which numbers are read. source names them in errors."""

    def __init__(self, data: bytes, source: str) -> None:
        self.data, self.source, self.position = data, source, 0

    def is_at_end(self) -> bool:
        return self.position >= len(self.data)

    def varint(self) -> int:
        """Read an integer of 7 bits a byte, below 2^64."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    break
                return value
        raise CheckpointError(f"{self.source} has a number of more than 64 bits")

    def take(self, count: int) -> bytes:
        """Read some bytes."""
        if count > len(self.data) - self.position:
            raise CheckpointError(f"{self.source} ends where {count} more bytes are needed")
        part = self.data[self.position : self.position + count]
        self.position += count
        return part


def read_table(data: bytes, source: str) -> dict[bytes, bytes]:
    """Give all keys and values of a table. Raises CheckpointError for one that is damaged or compressed."""
    if len(data) < _FOOTER_BYTES:
        raise CheckpointError(f"{source} has {len(data)} bytes; such a table has at least {_FOOTER_BYTES}")
    footer = data[-_FOOTER_BYTES:]
    if int.from_bytes(footer[-8:], "little") != _MAGIC:
        raise CheckpointError(f"{source} does not end as a TensorFlow index does")
    handles = Bytes(footer[:-8], f"{source}: the footer")
    handles.varint(), handles.varint()  # the block of metadata, of which there is none
    index = _entries(_block(data, handles.varint(), handles.varint(), source), f"{source}: the index block")
    if len(index) > _MAX_BLOCKS:
        raise CheckpointError(f"{source} has {len(index)} blocks; the limit is {_MAX_BLOCKS}")
    table: dict[bytes, bytes] = {}
    end = 0
    last = None
    for _, value in index:
        handle = Bytes(value, f"{source}: the index block")
        offset, size = handle.varint(), handle.varint()
        if offset < end:
            raise CheckpointError(f"{source}: a block starts at {offset}, inside the one before it")
        end = offset + size + _TRAILER_BYTES
        for key, item in _entries(_block(data, offset, size, source), f"{source}: the block at {offset}"):
            if last is not None and key <= last:
                raise CheckpointError(f"{source}: the key {key[:80]!r} is not behind the one before it")
            last = key
            table[key] = item
        if len(table) > _MAX_ENTRIES:
            raise CheckpointError(f"{source} has more than {_MAX_ENTRIES} entries; no GPT-2 has as many")
    return table


def _block(data: bytes, offset: int, size: int, source: str) -> bytes:
    """Give the content of a block after its checksum has been verified."""
    if offset + size + _TRAILER_BYTES > len(data) - _FOOTER_BYTES:
        raise CheckpointError(f"{source}: a block of {size} bytes at {offset} reaches past the end")
    content, compression = data[offset : offset + size], data[offset + size]
    if compression != 0:
        raise CheckpointError(
            f"{source} has a compressed block, which TensorFlow writes for no checkpoint; save it anew"
        )
    stored = int.from_bytes(data[offset + size + 1 : offset + size + _TRAILER_BYTES], "little")
    if crc32c(np.frombuffer(data, np.uint8)[offset : offset + size + 1]) != unmask(stored):
        raise CheckpointError(
            f"{source}: the checksum of the block at {offset} is wrong; the file is damaged"
        )
    return content


def _entries(block: bytes, source: str) -> list[tuple[bytes, bytes]]:
    num_restarts = int.from_bytes(block[-4:], "little")
    if len(block) < 4 or 4 * (num_restarts + 1) > len(block):
        raise CheckpointError(f"{source} has {num_restarts} restart points in {len(block)} bytes")
    reader = Bytes(block[: len(block) - 4 * (num_restarts + 1)], source)
    entries: list[tuple[bytes, bytes]] = []
    key = b""
    while not reader.is_at_end():
        shared, added, size = reader.varint(), reader.varint(), reader.varint()
        if shared > len(key) or shared + added > _MAX_KEY_BYTES:
            raise CheckpointError(
                f"{source} has a key of {added} bytes after {shared} of a key of {len(key)}; the limit is "
                f"{_MAX_KEY_BYTES}"
            )
        key = key[:shared] + reader.take(added)
        entries.append((key, reader.take(size)))
        if len(entries) > _MAX_ENTRIES:
            raise CheckpointError(f"{source} has more than {_MAX_ENTRIES} entries; no GPT-2 has as many")
    return entries
