"""Time grows linearly with the text, whatever the text is."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from tokenizer_shapes import SHAPES, shape

from gpt2_vocabulary import write_gpt2_vocabulary
from gpt2kit._native import Bpe

MAX_SLOPE = 1.15
MAX_SECONDS_PER_MIB = 0.5


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Bpe:
    folder: Path = write_gpt2_vocabulary(tmp_path_factory.mktemp("vocabulary"))
    return Bpe((folder / "vocab.json").read_bytes(), (folder / "merges.txt").read_bytes(), False, False)


def seconds(core: Bpe, text: str | bytes, repeats: int) -> float:
    """Processor time of this thread, the least of some repeats: other processes do not count."""
    best = float("inf")
    for _ in range(repeats):
        start = time.thread_time()
        core.encode(text, True, False)
        best = min(best, time.thread_time() - start)
    return best


def slope(core: Bpe, name: str, exponents: list[int]) -> float:
    # Few repeats: after many, the processor has learned the branches of a short text by heart.
    times = [seconds(core, shape(name, 2**e), 3) for e in exponents]
    return float(np.polyfit(np.array(exponents) * np.log(2), np.log(times), 1)[0])


def test_there_are_25_shapes() -> None:
    assert len(SHAPES) == 25


@pytest.mark.parametrize("name", SHAPES)
def test_a_mebibyte_takes_less_than_half_a_second(core: Bpe, name: str) -> None:
    assert seconds(core, shape(name, 2**20), 1) < MAX_SECONDS_PER_MIB


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_time_grows_linearly(core: Bpe, name: str) -> None:
    assert slope(core, name, [12, 13, 14, 15, 16, 17, 18, 19, 20]) <= MAX_SLOPE
