"""No file, however damaged, does more than raise CheckpointError that names the tensor and the reason."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hostile_files
import numpy as np
import pytest
import tiny

from gpt2kit.checkpoint import open_checkpoint
from gpt2kit.checkpoint.safetensors_file import SafetensorsFile
from gpt2kit.errors import CheckpointError, GPT2Error


def make(case: hostile_files.Case, folder: Path) -> Path:
    tiny.CONFIG.save_pretrained(folder)
    path = folder / "model.safetensors"
    if callable(case.content):
        case.content(path)
    else:
        path.write_bytes(case.content)
    return folder


@pytest.mark.parametrize("case", hostile_files.CASES, ids=lambda case: case.name)
def test_hostile_file_is_refused_with_the_reason(case: hostile_files.Case, tmp_path: Path) -> None:
    folder = make(case, tmp_path)
    with pytest.raises(CheckpointError, match=case.says) as caught:
        open_checkpoint(folder)
    assert len(str(caught.value)) < 600 + len(str(folder))
    assert str(caught.value).isprintable()


def test_hostile_files_are_refused_quickly(tmp_path: Path) -> None:
    slow = {}
    for case in hostile_files.CASES:
        folder = make(case, tmp_path / case.name)
        times = []
        for _ in range(3):
            start = time.process_time()
            with pytest.raises(CheckpointError):
                open_checkpoint(folder)
            times.append(time.process_time() - start)
        if min(times) > 0.1:
            slow[case.name] = min(times)
    assert not slow


MEMORY_CHECK = """
import resource, sys
from pathlib import Path
from gpt2kit.checkpoint import open_checkpoint
from gpt2kit.errors import CheckpointError
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 64 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for folder in sorted(Path(sys.argv[1]).iterdir()):
    try:
        open_checkpoint(folder)
    except CheckpointError:
        continue
    sys.exit(f"{folder.name} was accepted")
"""


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="needs Linux's /proc to know the size in use"
)
def test_hostile_files_take_less_than_64_mb(tmp_path: Path) -> None:
    for case in hostile_files.CASES:
        make(case, tmp_path / case.name)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_CHECK, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_padding_up_to_the_limit_is_accepted(tmp_path: Path) -> None:
    header, data = tiny.entries(tiny.tensors())
    good = tiny.pack(header, data)
    length = int.from_bytes(good[:8], "little")
    padded = good[8 : 8 + length].ljust(6_000_001)
    folder = tiny.write_folder(tmp_path, tiny.pack(padded, data))
    checkpoint = open_checkpoint(folder)
    view = checkpoint.tensor("wte.weight")
    assert not view.flags.aligned
    assert np.array_equal(view, tiny.tensors()["wte.weight"])


def mutations(count: int, seed: int) -> None:
    """Change good files at random: flips, cuts, splices, numbers; only CheckpointError may come of it."""
    rng = np.random.default_rng(seed)
    header, data = tiny.entries(tiny.tensors())
    good = tiny.pack(header, data)
    numbers = [
        b"-1",
        b"0",
        b"1",
        b"4294967296",
        b"9223372036854775808",
        b"1e9",
        b"null",
        b'"x"',
        b"[]",
        b"{}",
    ]
    digits = [i for i in range(8, len(good) - len(data)) if chr(good[i]).isdigit()]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.safetensors"
        for _ in range(count):
            changed = bytearray(good)
            for _ in range(int(rng.integers(1, 4))):
                kind, at = int(rng.integers(5)), int(rng.integers(max(1, len(changed) - len(data))))
                if kind == 0:
                    changed[at] ^= 1 << int(rng.integers(8))
                elif kind == 1:
                    del changed[int(rng.integers(len(changed))) :]
                elif kind == 2:
                    source = int(rng.integers(len(good)))
                    changed[at : at + 8] = good[source : source + 8]
                elif kind == 3:
                    place = digits[int(rng.integers(len(digits)))]
                    changed[place : place + 1] = numbers[int(rng.integers(len(numbers)))]
                else:
                    changed[at:at] = bytes(rng.integers(256, size=4, dtype=np.uint8))
                if not changed:
                    break
            target.unlink(missing_ok=True)  # file systems flush a file that is truncated and written again
            target.write_bytes(changed)
            try:
                file = SafetensorsFile(target)
            except CheckpointError:
                continue
            file.map()
            total = sum(info.nbytes for info in file.tensors.values())
            assert total <= len(changed)
            for info in file.tensors.values():
                if info.dtype in ("F32", "F16", "BF16"):
                    assert file.view(info.name).nbytes == info.nbytes


def test_mutated_files_only_raise_checkpoint_error() -> None:
    mutations(10_000, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_200_000_mutated_files_only_raise_checkpoint_error() -> None:
    mutations(200_000, seed=2)


def test_file_cut_at_every_byte_is_refused(tmp_path: Path) -> None:
    header, data = tiny.entries(tiny.tensors())
    good = tiny.pack(header, data)
    target = tmp_path / "model.safetensors"
    target.write_bytes(good)
    for length in reversed(range(len(good))):
        os.truncate(target, length)
        with pytest.raises(CheckpointError):
            SafetensorsFile(target)


def test_file_that_shrinks_between_check_and_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(tiny.pack(*tiny.entries(tiny.tensors())))
    for use_mmap in (True, False):
        file = SafetensorsFile(path)
        content = path.read_bytes()
        path.write_bytes(content[:-4])
        with pytest.raises(CheckpointError, match="changed its size"):
            file.map(use_mmap)
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_embd": 65536, "n_head": 1}, r"'wte\.weight' has shape \(11, 4\); .*\(11, 65536\)"),
        ({"n_layer": 1024}, r"tensor 'h\.1\.ln_1\.weight' and 12275 more .* missing"),
        ({"vocab_size": 2**20}, r"'wte\.weight' has shape"),
        ({"n_positions": 2**20}, r"'wpe\.weight' has shape"),
        ({"n_inner": 2**20}, r"'h\.0\.mlp\.c_fc\.weight' has shape"),
        ({"add_cross_attention": True}, r"'h\.0\.crossattention\.c_attn\.weight' and 7 more"),
    ],
)
def test_configuration_that_lies_is_found_out_by_the_file(changes: dict, says: str, tmp_path: Path) -> None:
    settings = {**tiny.CONFIG.to_dict(), **changes}
    config = type(tiny.CONFIG)(**settings)
    folder = tiny.write_folder(tmp_path, tiny.pack(*tiny.entries(tiny.tensors())), config)
    with pytest.raises(GPT2Error, match=says):
        open_checkpoint(folder)
