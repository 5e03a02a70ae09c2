"""The files of one checkpoint, opened and checked: what every format gives, and which reader is whose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gpt2kit.checkpoint.find import WeightFiles
from gpt2kit.checkpoint.safetensors_file import SafetensorsFile, TensorInfo
from gpt2kit.errors import CheckpointError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class WeightsFile(Protocol):
    """What a reader of one file gives, whatever its format."""

    path: Path
    size: int
    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]

    def map(self, use_mmap: bool = True) -> None: ...
    def view(self, name: str) -> NDArray[Any]: ...
    def buffer(self, name: str) -> memoryview | NDArray[Any]: ...
    def prefault(self) -> None: ...
    def release(self, name: str, begin: int, end: int) -> None: ...
    def close(self) -> None: ...


def open_files(weights: WeightFiles, mmap: bool) -> list[WeightsFile]:
    """Open what find_weights chose and check what the files say of themselves. Raises CheckpointError."""
    files: list[WeightsFile] = []
    try:
        for path in weights.paths:
            files.append(_open_file(path, weights.format, mmap))
        if weights.weight_map is not None:
            _check_weight_map(files, weights.weight_map)
    except BaseException:
        for file in files:
            file.close()
        raise
    return files


def _open_file(path: Path, format: str, mmap: bool) -> WeightsFile:
    if format == "bin":
        from gpt2kit.checkpoint.torch_file import TorchFile

        return TorchFile(path, mmap)
    if format == "tensorflow":
        from gpt2kit.checkpoint.tensorflow_file import TensorFlowFile

        return TensorFlowFile(path)
    return SafetensorsFile(path)


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
