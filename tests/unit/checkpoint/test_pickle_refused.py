"""Pickles that would run code, or claim more memory than they have, are refused and nothing of them runs."""

from __future__ import annotations

import collections
import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import tiny

from gpt2kit.checkpoint import open_checkpoint
from gpt2kit.errors import CheckpointError, MissingDependencyError

torch = pytest.importorskip("torch")


class Call:
    """Unpickles by calling a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


class State:
    """Unpickles by __setstate__ with a hostile value inside."""

    def __init__(self, value: Any) -> None:
        self.value = value


def torch_zip(data: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/version", b"3\n")
    return buffer.getvalue()


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def tar(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def hostile(canary: str) -> dict[str, bytes]:
    touch = Call(os.system, f"touch {canary}")
    opened = Call(open, canary, "w")
    evaluated = Call(eval, f"open({canary!r}, 'w')")
    good = {f"transformer.{n}": torch.from_numpy(a) for n, a in tiny.tensors().items()}
    huge = torch.zeros(1).expand(2**40)
    return {
        "reduce_system_zip": torch_zip(pickle.dumps({"wte.weight": touch})),
        "reduce_system_bare": pickle.dumps({"wte.weight": touch}),
        "reduce_system_legacy": saved({**good, "x": touch}, _use_new_zipfile_serialization=False),
        "reduce_system_saved": saved({**good, "x": touch}),
        "reduce_open": torch_zip(pickle.dumps({"wte.weight": opened}, protocol=2)),
        "reduce_eval": torch_zip(pickle.dumps(evaluated, protocol=2)),
        "setstate": saved({**good, "x": State(touch)}),
        "protocol_0": torch_zip(b"cposix\nsystem\n(S'touch " + canary.encode() + b"'\ntR."),
        "instance_opcode": torch_zip(b"(S'touch " + canary.encode() + b"'\nios\nsystem\n."),
        "legacy_tar": tar(pickle.dumps(touch)),
        "module_object": saved(torch.nn.Linear(2, 2)),
        "nested_zip": torch_zip(torch_zip(pickle.dumps(touch))),
        "compressed_zip": torch_zip(pickle.dumps({}) + b" " * 10**7, zipfile.ZIP_DEFLATED),
        "sparse": saved({**good, "wte.weight": torch.zeros(11, 4).to_sparse()}),
        "repeated_by_stride": saved({**good, "x": huge}),
        "not_a_mapping": saved([torch.zeros(1)]),
        "nested_mapping": saved({"model": good}),
        "key_is_a_number": saved({**good, 3: torch.zeros(1)}),
        "value_is_a_number": saved({**good, "x": 3}),
        "wrong_shape": saved({**good, "transformer.wte.weight": torch.zeros(4, 11)}),
        "integers": saved({**good, "transformer.wte.weight": torch.zeros(11, 4, dtype=torch.int32)}),
        "counter": saved({**good, "x": collections.Counter(a=1)}),
        "cut_short": saved(good)[:-200],
        "empty": b"",
        "text": b"this is no model",
    }


@pytest.mark.parametrize("name", list(hostile("x")))
def test_hostile_pickle_is_refused_and_runs_nothing(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    folder = tmp_path / "model"
    tiny.CONFIG.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(hostile(str(canary))[name])
    with pytest.raises(CheckpointError):
        open_checkpoint(folder, allow_pickle=True)
    assert not canary.exists()


def test_pickle_is_not_looked_at_unless_allowed(tmp_path: Path) -> None:
    tiny.CONFIG.save_pretrained(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="allow_pickle=True"):
        open_checkpoint(tmp_path)


def test_safetensors_are_preferred_to_an_allowed_pickle(tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path, tiny.pack(*tiny.entries(tiny.tensors())))
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    assert "wte.weight" in open_checkpoint(folder, allow_pickle=True)


def test_old_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.CONFIG.save_pretrained(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(MissingDependencyError, match=r"torch is 2\.9\.1.* needs 2\.10"):
        open_checkpoint(tmp_path, allow_pickle=True)
