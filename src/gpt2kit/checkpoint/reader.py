"""open_checkpoint: a folder of weights, checked against its configuration before any of it is used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2kit.checkpoint.dtypes import (
    CONFIG_DTYPES,
    DTYPE_OPTIONS,
    WEIGHT_DTYPES,
    BFloat16Array,
    from_float32,
    to_float32,
)
from gpt2kit.checkpoint.find import WeightFiles, find_weights
from gpt2kit.checkpoint.names import LM_HEAD, WTE, canonical_name, head_shapes, shapes_match, trunk_shapes
from gpt2kit.checkpoint.safetensors_file import SafetensorsFile, TensorInfo
from gpt2kit.config import GPT2Config
from gpt2kit.errors import CheckpointError


class WeightsFile(Protocol):
    """What a reader of one file gives, whatever its format."""

    path: Path
    size: int
    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]

    def map(self, use_mmap: bool = True) -> None: ...
    def view(self, name: str) -> NDArray[Any]: ...
    def close(self) -> None: ...


class Checkpoint:
    """The weights of one folder, by canonical name (`wte.weight`, `h.0.attn.c_attn.weight`, `score.weight`).

    Made by open_checkpoint. Arrays are read-only and stay valid when the Checkpoint is gone.

    folder: where it was read from.  config: its GPT2Config.  file_bytes: size of all its files.
    metadata: what the writer noted, such as {"format": "pt"}.
    missing: names of the trunk that the files lack (only with allow_missing).
    """

    def __init__(
        self, folder: Path, config: GPT2Config, files: Sequence[WeightsFile], *, allow_missing: bool
    ) -> None:
        self.folder, self.config = folder, config
        self.file_bytes = sum(file.size for file in files)
        self.metadata = {key: value for file in files for key, value in file.metadata.items()}
        self._table: dict[str, tuple[WeightsFile, TensorInfo]] = {}
        for file in files:
            for info in file.tensors.values():
                self._add(file, info)
        self.missing = self._check(allow_missing)

    def _add(self, file: WeightsFile, info: TensorInfo) -> None:
        name = canonical_name(info.name)
        if name is None:
            return
        if name in self._table:
            other, there = self._table[name]
            raise CheckpointError(
                f"{file.path}: tensor {info.name!r} is there twice: see {there.name!r} in {other.path.name}"
            )
        self._table[name] = (file, info)

    def _check(self, allow_missing: bool) -> tuple[str, ...]:
        trunk, heads = trunk_shapes(self.config), head_shapes(self.config)
        if WTE not in self._table and LM_HEAD in self._table and self.config.tie_word_embeddings:
            # Writers that store shared tensors once keep the name that sorts first.
            self._table[WTE] = self._table.pop(LM_HEAD)
        for name, (file, info) in self._table.items():
            expected = trunk.get(name) or heads.get(name)
            if expected is None:
                continue
            if not shapes_match(info.shape, expected):
                wanted = tuple("any" if size == -1 else size for size in expected)
                raise CheckpointError(
                    f"{file.path}: tensor {info.name!r} has shape {info.shape}; the configuration makes it "
                    f"{wanted}"
                )
            if info.dtype not in WEIGHT_DTYPES:
                allowed = ", ".join(WEIGHT_DTYPES)
                raise CheckpointError(
                    f"{file.path}: tensor {info.name!r} has dtype {info.dtype}; weights may be {allowed}"
                )
        missing = tuple(name for name in trunk if name not in self._table)
        if missing and not allow_missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise CheckpointError(
                f"{self.folder}: tensor {missing[0]!r}{more} of the configuration's {len(trunk)} is missing"
            )
        return missing

    def _drop_tied_head(self) -> None:
        """Forget a stored lm_head that is the same as wte, as .bin files and old safetensors have it."""
        if self.config.tie_word_embeddings and LM_HEAD in self._table and WTE in self._table:
            head, wte = self._table[LM_HEAD][1], self._table[WTE][1]
            if head.dtype == wte.dtype and _same_bits(self.tensor(LM_HEAD), self.tensor(WTE)):
                del self._table[LM_HEAD]
                return
            import logging

            logging.getLogger("gpt2kit").warning(
                "%s: lm_head.weight and wte.weight differ though tie_word_embeddings is true: both are kept",
                self.folder,
            )

    def names(self) -> list[str]:
        """List the canonical names of all tensors, stored masks left out, sorted.

        `lm_head.weight` is among them only when it is not the same as `wte.weight`. Names that no GPT-2 has
        are listed too.
        """
        return sorted(self._table)

    def __contains__(self, name: object) -> bool:
        return name in self._table

    def info(self, name: str) -> TensorInfo:
        """Give dtype, shape and size of a tensor, under its canonical name. Raises CheckpointError."""
        info = self._entry(name)[1]
        return TensorInfo(name, info.dtype, info.shape, info.nbytes)

    def tensor(self, name: str) -> NDArray[Any]:
        """Give a tensor as it is stored: a read-only, C-contiguous view of the file, without a copy.

        float32, float16, or uint16 holding the bits of bfloat16 (info(name).dtype is "BF16"). Some writers do
        not align their data: look at flags.aligned before handing the address to code that needs it.
        Raises CheckpointError for an unknown name or a dtype that no weight has.
        """
        file, info = self._entry(name)
        if info.dtype not in WEIGHT_DTYPES:
            raise CheckpointError(
                f"{file.path}: tensor {info.name!r} has dtype {info.dtype}, which is not read"
            )
        return file.view(info.name)

    def float32(self, name: str) -> NDArray[np.float32]:
        """Give a tensor as read-only float32: the view itself when stored so, a converted copy otherwise."""
        array = to_float32(self.tensor(name), self._entry(name)[1].dtype)
        array.flags.writeable = False
        return array

    def weights(self, name: str, dtype: str = "auto") -> NDArray[Any] | BFloat16Array:
        """Give a tensor in the dtype of that name, read-only: the view itself where it is stored so.

        dtype: "float32", "float16", "bfloat16", or "auto" for the one that is stored. Others are converted:
        exactly to float32, else to the nearest value, ties to even. Raises CheckpointError.
        """
        if dtype not in DTYPE_OPTIONS:
            raise CheckpointError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPE_OPTIONS)}")
        stored = self._entry(name)[1].dtype
        wanted = next((key for key, value in CONFIG_DTYPES.items() if value == dtype), stored)
        array = self.tensor(name)
        if wanted != stored:
            array = from_float32(to_float32(array, stored), wanted)
            array.flags.writeable = False
        return BFloat16Array(array) if wanted == "BF16" else array

    def _entry(self, name: str) -> tuple[WeightsFile, TensorInfo]:
        entry = self._table.get(name)
        if entry is None:
            raise CheckpointError(f"{self.folder} has no tensor {name!r}; names() lists those it has")
        return entry


def open_checkpoint(
    folder_or_name: str | os.PathLike[str],
    *,
    config: GPT2Config | None = None,
    allow_pickle: bool = False,
    allow_missing: bool = False,
    mmap: bool = True,
    variant: str | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Checkpoint:
    """Open the weights of a folder, or of a model of the hub, checked against their configuration.

    Reads model.safetensors, else its shards, else (with `allow_pickle`) pytorch_model.bin or its shards.
    `config` replaces the folder's config.json; `variant` "fp16" reads model.fp16.safetensors;
    `allow_missing` accepts a trunk that is not complete. With `mmap` the file is used where it lies: it costs
    no memory of its own, but the system kills the process if someone truncates the file meanwhile (replacing
    it by a rename is safe). `mmap=False` copies it into memory and has no such risk.

    Raises CheckpointError naming the tensor and the reason; ConfigError; HubError.
    """
    from gpt2kit.hub import resolve_folder

    folder = resolve_folder(
        folder_or_name,
        revision=revision,
        subfolder=subfolder,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
        force_download=force_download,
        allow_pickle=allow_pickle,
        variant=variant,
    )
    if config is None:
        config = GPT2Config.from_json_file(folder / "config.json")
    files = _open_files(find_weights(folder, allow_pickle=allow_pickle, variant=variant), mmap)
    try:
        checkpoint = Checkpoint(folder, config, files, allow_missing=allow_missing)
        for file in files:
            file.map(mmap)
    except BaseException:
        for file in files:
            file.close()
        raise
    checkpoint._drop_tied_head()
    return checkpoint


def _open_files(weights: WeightFiles, mmap: bool) -> list[WeightsFile]:
    files: list[WeightsFile] = []
    try:
        for path in weights.paths:
            files.append(_open_file(path, weights.is_pickle, mmap))
        if weights.weight_map is not None:
            _check_weight_map(files, weights.weight_map)
    except BaseException:
        for file in files:
            file.close()
        raise
    return files


def _open_file(path: Path, is_pickle: bool, mmap: bool) -> WeightsFile:
    if not is_pickle:
        return SafetensorsFile(path)
    from gpt2kit.checkpoint.torch_file import TorchFile

    return TorchFile(path, mmap)


def _check_weight_map(files: Sequence[WeightsFile], weight_map: dict[str, str]) -> None:
    for file in files:
        for name in file.tensors:
            if weight_map.get(name) != file.path.name:
                said = weight_map.get(name, "no shard")
                raise CheckpointError(f"{file.path}: tensor {name!r} is here, but the index says {said}")
    shards = {file.path.name: file for file in files}
    for name, shard in weight_map.items():
        if name not in shards[shard].tensors:
            raise CheckpointError(
                f"{shards[shard].path}: tensor {name[:80]!r} is missing, the index says it is here"
            )


def _same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    if a.shape != b.shape or a.ctypes.data == b.ctypes.data:
        return a.shape == b.shape
    bits = f"<u{a.dtype.itemsize}"
    return all(np.array_equal(x.view(bits), y.view(bits)) for x, y in zip(a, b, strict=True))
