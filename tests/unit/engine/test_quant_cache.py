"""The cache of what quantising at load makes: found by content, believed as little as any file, never in the way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gpt2kit import load_engine
from gpt2kit.checkpoint import mapped_file, save_checkpoint
from gpt2kit.checkpoint.names import head_shapes, trunk_shapes
from gpt2kit.config import GPT2Config
from gpt2kit.engine import quant_cache, quantize, quantize_folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Switch the cache on, for models of any size and for files that were just written."""
    monkeypatch.setenv("GPT2KIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(quant_cache, "LEAST_BYTES", 0)
    monkeypatch.setattr(quant_cache, "_SETTLED_NS", -1)
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def make_model(folder: Path, seed: int = 0, **options: object) -> Path:
    config = GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=70, n_positions=20, **options)
    shapes = trunk_shapes(config)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = head_shapes(config)["lm_head.weight"]
    rng = np.random.default_rng(seed)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    save_checkpoint(folder, weights, config)
    return folder


def logits(folder: Path, **options: object) -> np.ndarray:
    engine = load_engine(folder, quant="int8", threads=1, **options)
    assert engine.quant == "int8"
    return engine.forward([(engine.new_sequence(), [1, 5, 69, 3])])[0].logits


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "packed").glob("*")) if cache.exists() else []


def forbid(monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> None:
    def fail(*args: object, **options: object) -> None:
        raise AssertionError(f"{name} was called")

    monkeypatch.setattr(module, name, fail)


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": False}, {"architectures": ["GPT2Model"]}])
def test_a_second_load_neither_hashes_nor_quantises_and_gives_the_same(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    folder = make_model(tmp_path / "model", **options)
    expected = logits(folder, quant_cache=False)
    assert not cache.exists()
    assert np.array_equal(logits(folder), expected) and len(entries(cache)) == 1
    forbid(monkeypatch, quantize, "quantized_weights")
    forbid(monkeypatch, mapped_file.MappedFile, "digest")
    assert np.array_equal(logits(folder), expected)


def test_an_entry_is_a_packed_folder(cache: Path, model: Path, tmp_path: Path) -> None:
    expected = logits(model)
    (entry,) = entries(cache)
    quantize_folder(model, tmp_path / "packed")
    written = (tmp_path / "packed" / "model.safetensors").read_bytes()
    assert (entry / "model.safetensors").read_bytes() == written
    assert np.array_equal(logits(entry), expected) and len(entries(cache)) == 1


def test_the_content_counts_and_not_the_place(
    cache: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits(model)
    shutil.copytree(model, tmp_path / "copy")
    forbid(monkeypatch, quantize, "quantized_weights")
    assert np.array_equal(logits(tmp_path / "copy"), expected)


@pytest.mark.parametrize("keeps_time", [False, True])
def test_a_changed_file_is_not_taken_for_the_old_one(cache: Path, model: Path, keeps_time: bool) -> None:
    old = logits(model)
    path = model / "model.safetensors"
    status = path.stat()
    with open(path, "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(np.float32(3.25).tobytes())
        file.seek(status.st_size // 2)
        file.write(np.full(8, 0.75, np.float32).tobytes())
    if keeps_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    new = logits(model)
    assert not np.array_equal(new, old)
    assert np.array_equal(new, logits(model, quant_cache=False)) and len(entries(cache)) == 2


def test_the_hash_of_a_file_that_may_still_change_is_not_remembered(
    cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quant_cache, "_SETTLED_NS", 10**12)
    logits(model)
    assert len(entries(cache)) == 1 and not (cache / "digests").exists()
    forbid(monkeypatch, quantize, "quantized_weights")
    logits(model)


def test_other_names_for_the_same_content_are_another_entry(cache: Path, model: Path) -> None:
    swap = {r"ln_1\.weight": "ln_0.weight", r"ln_2\.weight": "ln_1.weight", r"ln_0\.weight": "ln_2.weight"}
    plain, swapped = logits(model), logits(model, key_mapping=swap)
    assert len(entries(cache)) == 2 and not np.array_equal(plain, swapped)
    assert np.array_equal(swapped, logits(model, key_mapping=swap, quant_cache=False))


@pytest.mark.parametrize("damage", ["cut", "empty", "scales", "config", "no weights", "header"])
def test_damaged_entries_are_made_again(cache: Path, model: Path, damage: str) -> None:
    expected = logits(model)
    (entry,) = entries(cache)
    path = entry / "model.safetensors"
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-5])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "scales":
        half = len(content) // 2  # negative scales among all that is behind
        path.write_bytes(content[:half] + b"\xff" * (len(content) - half))
    elif damage == "config":
        path.write_bytes(content.replace(b"gpt2kit-int8", b"gpt2kit-int9"))
    elif damage == "no weights":
        path.unlink()
    else:
        path.write_bytes(content[:9] + b"\xff" + content[10:])
    assert np.array_equal(logits(model), expected)
    assert path.read_bytes() == content


@pytest.mark.parametrize("broken", [b"", b"zz", b"\xff" * 64, b"g" * 64])
def test_damaged_hashes_are_made_again(cache: Path, model: Path, broken: bytes) -> None:
    expected = logits(model)
    (digest,) = (cache / "digests").iterdir()
    content = digest.read_bytes()
    digest.write_bytes(broken)
    assert np.array_equal(logits(model), expected)
    assert digest.read_bytes() == content and len(entries(cache)) == 1


@pytest.mark.parametrize("blocked", ["", "packed", "digests"])
def test_a_cache_that_cannot_be_written_is_done_without(cache: Path, model: Path, blocked: str) -> None:
    expected = logits(model, quant_cache=False)
    if blocked:
        cache.mkdir()
    (cache / blocked).write_text("not a folder")
    for _ in range(2):
        assert np.array_equal(logits(model), expected)


def test_without_room_or_permission_nothing_is_hashed(
    cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, mapped_file.MappedFile, "digest")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        logits(model)
    size = (model / "model.safetensors").stat().st_size
    nearly_full = os.statvfs_result((4096, 1, 0, 0, size - 1, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: nearly_full)
    logits(model)
    assert list(cache.iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing_behind(cache: Path, model: Path) -> None:
    code = (
        "import resource, sys; from gpt2kit import load_engine; from gpt2kit.engine import quant_cache\n"
        "quant_cache.LEAST_BYTES = 0\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        f"assert load_engine({str(model)!r}, quant='int8').quant == 'int8'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert entries(cache) == []
    logits(model)
    assert len(entries(cache)) == 1


@pytest.mark.parametrize("value", ["off", "OFF", "0", "no", "false"])
def test_the_environment_switches_it_off(
    cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str
) -> None:
    monkeypatch.setenv("GPT2KIT_CACHE", value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    logits(model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_the_folder_is_where_other_programs_have_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT2KIT_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert quant_cache.cache_folder() == tmp_path / "gpt2kit"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert quant_cache.cache_folder() == tmp_path / ".cache" / "gpt2kit"
    monkeypatch.setenv("GPT2KIT_CACHE", "~/here")
    assert quant_cache.cache_folder() == tmp_path / "here"


def test_small_models_and_other_files_are_not_kept(
    cache: Path, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    other = tmp_path / "bin"
    shutil.copytree(model, other)
    torch.save(load_file(other / "model.safetensors"), other / "pytorch_model.bin")
    (other / "model.safetensors").unlink()
    logits(other, allow_pickle=True)
    monkeypatch.setattr(quant_cache, "LEAST_BYTES", 10**6)
    logits(model)
    assert entries(cache) == []


def test_entries_used_longest_ago_make_room(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [make_model(tmp_path / f"model{seed}", seed) for seed in range(3)]
    kept = []
    for age, folder in zip((300, 200, 100), folders, strict=True):
        logits(folder)
        (entry,) = set(entries(cache)) - set(kept)
        os.utime(entry, (time.time() - age,) * 2)
        kept.append(entry)
    logits(folders[0])  # now the latest
    size = sum(file.stat().st_size for file in kept[0].iterdir())
    abandoned = cache / "packed" / ".x.tmp"
    abandoned.mkdir()
    os.utime(abandoned, (1, 1))
    monkeypatch.setattr(quant_cache, "LIMIT_BYTES", int(2.5 * size))
    logits(make_model(tmp_path / "model3", 3))
    left = entries(cache)
    assert kept[0] in left and len(left) == 2 and abandoned not in left
    assert sum(quant_cache.entries(cache).values()) <= 2.5 * size
    monkeypatch.setattr(quant_cache, "LIMIT_BYTES", size // 4)
    logits(make_model(tmp_path / "model4", 4))
    assert entries(cache) == left


def test_processes_that_load_at_once_all_succeed(cache: Path, model: Path) -> None:
    code = (
        "import sys; from gpt2kit import load_engine; from gpt2kit.engine import quant_cache\n"
        "quant_cache.LEAST_BYTES = 0\n"
        "sys.stdin.read(1)\n"
        f"print(load_engine({str(model)!r}, quant='int8', threads=1).generate([[1, 2]], 8))\n"
    )
    start = [sys.executable, "-c", code]
    processes = [subprocess.Popen(start, stdin=-1, stdout=-1, text=True) for _ in range(4)]
    for process in processes:
        process.stdin.write("x")
        process.stdin.flush()
    answers = {process.communicate(timeout=60)[0] for process in processes}
    assert len(answers) == 1 and answers.pop().startswith("[[")
    assert all(process.returncode == 0 for process in processes)
    assert len(entries(cache)) == 1


def test_an_entry_is_run_without_numpy(cache: Path, model: Path) -> None:
    logits(model)
    code = (
        "import sys; from gpt2kit import load_engine; from gpt2kit.engine import quant_cache\n"
        "quant_cache.LEAST_BYTES = 0\n"
        f"engine = load_engine({str(model)!r}, quant='int8', threads=1)\n"
        "assert len(engine.generate([[1, 2]], 3)[0]) == 3\n"
        "assert 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
