"""Reading one pytorch_model.bin, for those who ask for it: pickle is a program, so this is never the default.

torch.load runs with weights_only, which builds tensors and plain containers and nothing else, and only in
torch 2.10 or later, whose reader has the known holes closed. A zip file is looked at first: its members must
be stored, not compressed, so that a small file cannot unpack into a large one.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from gpt2kit.checkpoint.dtypes import STORED_DTYPES
from gpt2kit.checkpoint.safetensors_file import TensorInfo
from gpt2kit.errors import CheckpointError, MissingDependencyError

if TYPE_CHECKING:
    import torch

MIN_TORCH = (2, 10)
_MAX_PICKLE_BYTES = 64 * 2**20
_DTYPES = {
    "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


class TorchFile:
    """One file written by torch.save, holding a flat mapping from names to tensors.

    Raises CheckpointError when it holds anything else, MissingDependencyError without a recent torch.
    """

    def __init__(self, path: str | os.PathLike[str], use_mmap: bool = True) -> None:
        self.path = Path(path)
        self.metadata: dict[str, str] = {}
        torch_module = _import_torch()
        if not self.path.is_file():
            raise CheckpointError(f"{path} is not an ordinary file")
        self.size = self.path.stat().st_size
        is_zip = self._check_zip()
        try:
            content = torch_module.load(
                self.path, map_location="cpu", weights_only=True, mmap=use_mmap and is_zip
            )
        except Exception as error:  # torch raises many kinds for damaged or hostile files
            reason = " ".join(str(error).split())[:160]
            raise CheckpointError(
                f"{path} is refused: it is damaged or holds more than tensors; "
                f"{type(error).__name__}: {reason}; "
                "convert it to safetensors with the tool that wrote it"
            ) from None
        if not isinstance(content, dict):
            raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a mapping of tensors")
        self._take(content, torch_module)

    @classmethod
    def of_tensors(cls, state_dict: Mapping[str, torch.Tensor]) -> TorchFile:
        """Treat a state_dict in memory, on any device, as a file that has been read."""
        import torch

        file = cls.__new__(cls)
        file.path, file.metadata = Path("state_dict"), {}
        on_cpu = {
            name: value.detach().cpu() if isinstance(value, torch.Tensor) else value
            for name, value in state_dict.items()
        }
        file.size = sum(getattr(value, "nbytes", 0) for value in on_cpu.values())
        file._take(on_cpu, torch)
        return file

    def _take(self, content: Mapping[Any, Any], torch_module: Any) -> None:
        self._tensors: dict[str, torch.Tensor] = {}
        self.tensors: dict[str, TensorInfo] = {}
        for name, tensor in content.items():
            self._add(name, tensor, torch_module)

    def _check_zip(self) -> bool:
        if not zipfile.is_zipfile(self.path):
            return False
        try:
            with zipfile.ZipFile(self.path) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
            raise CheckpointError(f"{self.path} is a damaged zip file: {error}") from None
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise CheckpointError(f"{self.path} has a compressed member; torch.save writes none")
            if member.filename.endswith(".pkl") and member.file_size > _MAX_PICKLE_BYTES:
                raise CheckpointError(f"{self.path} has a pickle of {member.file_size} bytes")
        if sum(member.file_size for member in members) > self.size:
            raise CheckpointError(f"{self.path} claims members larger than the file: they overlap")
        return True

    def _add(self, name: Any, tensor: Any, torch: Any) -> None:
        if type(name) is not str or len(name) > 256:
            raise CheckpointError(f"{self.path} has a key that is not a name: {str(name)[:80]!r}")
        is_plain = (
            isinstance(tensor, torch.Tensor)
            and tensor.layout == torch.strided
            and tensor.device.type == "cpu"
        )
        if not is_plain or tensor.is_quantized or tensor.dim() > 8:
            raise CheckpointError(
                f"{self.path}: {name!r} is not a plain tensor; expected a flat mapping of tensors"
            )
        dtype = str(tensor.dtype).removeprefix("torch.")
        nbytes = tensor.numel() * tensor.element_size()
        if nbytes > self.size:  # a stride of 0 repeats a few bytes without end
            raise CheckpointError(
                f"{self.path}: tensor {name!r} needs {nbytes} bytes, more than the file has"
            )
        self._tensors[name] = tensor
        self.tensors[name] = TensorInfo(name, _DTYPES.get(dtype, dtype), tuple(tensor.shape), nbytes)

    def map(self, use_mmap: bool = True) -> None:
        """Do nothing: torch has mapped or read the data already."""

    def view(self, name: str) -> NDArray[Any]:
        """Give a read-only C-contiguous array of one tensor of a dtype in STORED_DTYPES, copied only if strided."""
        import torch

        tensor = self._tensors[name].detach().contiguous()
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.view(torch.int16)
        array: NDArray[Any] = tensor.numpy().view(STORED_DTYPES[self.tensors[name].dtype])
        array.flags.writeable = False
        return array

    buffer = view

    def prefault(self) -> None:
        """Do nothing: the data is torch's."""

    def release(self, name: str, begin: int, end: int) -> None:
        """Do nothing: the data is torch's."""

    def close(self) -> None:
        """Forget the tensors. Arrays that were given out stay valid."""
        self._tensors.clear()


def _import_torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingDependencyError(
            "reading .bin weights needs torch: pip install 'gpt2kit[torch]'"
        ) from None
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < MIN_TORCH:
        wanted = ".".join(map(str, MIN_TORCH))
        raise MissingDependencyError(
            f"torch is {torch.__version__}; reading .bin weights needs {wanted} or later, which closes holes "
            "in the loading of hostile files"
        )
    return torch
