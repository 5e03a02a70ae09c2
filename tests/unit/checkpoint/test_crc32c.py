import numpy as np
import pytest

from gpt2kit.checkpoint.crc32c import crc32c, mask, unmask


def plain(data: bytes) -> int:
    """The definition: a shift register, bit by bit."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def of(data: bytes, crc: int = 0) -> int:
    return crc32c(np.frombuffer(data, np.uint8), crc)


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # RFC 3720, B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_known_answers(data: bytes, expected: int) -> None:
    assert of(data) == expected


@pytest.mark.parametrize("size", [1, 3, 2047, 2048, 2049, 3072, 4096, 5000, 65537])
def test_many_stretches_at_once_are_one_stretch(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert of(data) == plain(data)
    assert of(data[size // 3 :], of(data[: size // 3])) == plain(data)


def test_blocks_continue_each_other() -> None:
    data = np.random.default_rng(0).bytes(2**22 + 12345)
    parts = 0
    for start in range(0, len(data), 2000):  # too short for anything but the table of bytes
        parts = of(data[start : start + 2000], parts)
    assert of(data) == parts


def test_masks_are_undone() -> None:
    assert mask(0xE3069283) == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) % 2**32
    for crc in (0, 1, 0xFFFFFFFF, 0xE3069283, 0x80000000):
        assert unmask(mask(crc)) == crc
