"""open_checkpoint: a folder of weights, checked against its configuration before any of it is used."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2kit.checkpoint.dtypes import (
    BUFFER_FORMATS,
    CONFIG_DTYPES,
    DTYPE_OPTIONS,
    STORED_DTYPES,
    WEIGHT_DTYPES,
    BFloat16Array,
    from_float32,
    to_float32,
)
from gpt2kit.checkpoint.files import WeightsFile, open_files
from gpt2kit.checkpoint.find import find_weights
from gpt2kit.checkpoint.names import (
    LM_HEAD,
    WTE,
    canonical_name,
    head_shapes,
    is_conv1d,
    quantized_weight,
    shapes_match,
    trunk_shapes,
)
from gpt2kit.checkpoint.safetensors_file import TensorInfo
from gpt2kit.config import GPT2Config
from gpt2kit.config.bitsandbytes import quantization_of
from gpt2kit.config.hparams import config_file
from gpt2kit.config.packed import packed_format
from gpt2kit.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

_PIECE = 2**20  # elements: large enough to hide the cost of a step, small beside any model


class Checkpoint:
    """The weights of one folder, by canonical name (`wte.weight`, `h.0.attn.c_attn.weight`, `score.weight`).

    Made by open_checkpoint. Arrays are read-only and stay valid when the Checkpoint is gone.

    folder: where it was read from.  config: its GPT2Config.  file_bytes: size of all its files.
    metadata: what the writer noted, such as {"format": "pt"}.
    missing: names of the trunk that the files lack (only with allow_missing).
    """

    def __init__(
        self,
        folder: Path,
        config: GPT2Config,
        files: Sequence[WeightsFile],
        *,
        allow_missing: bool,
        allow_mismatched: bool = False,
        key_mapping: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.config = folder, config
        self._key_mapping = _compiled(key_mapping or {})
        self.file_bytes = sum(file.size for file in files)
        self.metadata = {key: value for file in files for key, value in file.metadata.items()}
        self._table: dict[str, tuple[WeightsFile, TensorInfo]] = {}
        self._mapped_names: dict[str, str] = {}
        for file in files:
            for info in file.tensors.values():
                self._add(file, info)
        self.missing = self._check(allow_missing, allow_mismatched)

    def _add(self, file: WeightsFile, info: TensorInfo) -> None:
        renamed = info.name
        for pattern, replacement in self._key_mapping:
            renamed = pattern.sub(replacement, renamed)
        name = canonical_name(renamed)
        if name is None:
            return
        if name in self._table:
            other, there = self._table[name]
            raise CheckpointError(
                f"{file.path}: tensor {info.name!r} is there twice: see {there.name!r} in {other.path.name}"
            )
        self._table[name] = (file, info)
        self._mapped_names[name] = renamed

    def _check(self, allow_missing: bool, allow_mismatched: bool) -> tuple[str, ...]:
        trunk, heads = trunk_shapes(self.config), head_shapes(self.config)
        if WTE not in self._table and LM_HEAD in self._table and self.config.tie_word_embeddings:
            # Writers that store shared tensors once keep the name that sorts first.
            self._table[WTE] = self._table.pop(LM_HEAD)
        self._quantized = self._quantized_weights()
        for name, (file, info) in self._table.items():
            if name in self._quantized:
                continue  # packed: what reads it knows its shape
            expected = trunk.get(name) or heads.get(name)
            if expected is None:
                continue
            if not allow_mismatched and not shapes_match(info.shape, expected):
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

    def _quantized_weights(self) -> set[str]:
        """Names of the weights that the configuration's quantization_config and the files say are quantised."""
        quantization = quantization_of(self.config)
        described = {quantized_weight(name) for name in self._table}
        if packed_format(self.config) is not None:
            return {name for name in self._table if name in described}
        if quantization is None:
            return set()
        # Kept in 16 bits, they are stored (out, in) nevertheless.
        is_transposed = quantization.load_in_8bit and quantization.llm_int8_has_fp16_weight
        return {name for name in self._table if name in described or (is_transposed and is_conv1d(name))}

    def _drop_tied_head(self) -> None:
        """Forget a stored lm_head that is the same as wte, as .bin files and old safetensors have it."""
        if self.config.tie_word_embeddings and LM_HEAD in self._table and WTE in self._table:
            head, wte = self._table[LM_HEAD][1], self._table[WTE][1]
            if (head.dtype, head.shape) == (wte.dtype, wte.shape) and self._same_bits(LM_HEAD, WTE):
                del self._table[LM_HEAD]
                return
            import logging

            logging.getLogger("gpt2kit").warning(
                "%s: lm_head.weight and wte.weight differ though tie_word_embeddings is true: both are kept",
                self.folder,
            )

    def _same_bits(self, name: str, other: str) -> bool:
        import numpy as np

        bits = f"<u{self.tensor(name).dtype.itemsize}"
        pairs = zip(self.pieces(name), self.pieces(other), strict=True)
        return all(np.array_equal(a.view(bits), b.view(bits)) for a, b in pairs)

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

    def source(self, name: str) -> tuple[WeightsFile, str]:
        """Give the file that holds a tensor, and its name there. Raises CheckpointError."""
        file, info = self._entry(name)
        return file, info.name

    def tensor(self, name: str) -> NDArray[Any]:
        """Give a tensor as it is stored: a read-only, C-contiguous view of the file, without a copy.

        float32, float16, or uint16 holding the bits of bfloat16 (info(name).dtype is "BF16"); parts of
        quantised weights also uint8, int8 and float64. Some writers do not align their data: look at flags.aligned before handing the address to code that needs it.
        Raises CheckpointError for an unknown name or a dtype that no weight has.
        """
        file, info = self._entry(name)
        if info.dtype not in STORED_DTYPES:
            raise CheckpointError(
                f"{file.path}: tensor {info.name!r} has dtype {info.dtype}, which is not read"
            )
        return file.view(info.name)

    def buffer(self, name: str) -> memoryview | NDArray[Any]:
        """Give a weight or a part of a packed one as it is stored, for the native engine: tensor() without numpy.

        A memoryview wherever Python has the format, so not for float16. Raises CheckpointError as tensor() does.
        """
        file, info = self._entry(name)
        if info.dtype not in BUFFER_FORMATS:
            return self.tensor(name)
        return file.buffer(info.name)

    def prefault(self) -> None:
        """Let other threads read mapped files ahead, for a caller who will use all of them where they lie."""
        for file in {id(file): file for file, _ in self._table.values()}.values():
            file.prefault()

    def pieces(self, name: str) -> Iterator[NDArray[Any]]:
        """Give a tensor in flat pieces, in order, as tensor() has it; for a copy that is the only one.

        What has been given is let go of, so that a mapped file does not count in memory beside the copy.
        """
        file, info = self._entry(name)
        flat = self.tensor(name).reshape(-1)
        for start in range(0, flat.size, _PIECE):
            yield flat[start : start + _PIECE]
            file.release(info.name, start * flat.itemsize, min(start + _PIECE, flat.size) * flat.itemsize)

    def mapped_name(self, name: str) -> str:
        """Give the name that a tensor has in the file, prefix and all, as key_mapping makes it."""
        return self._mapped_names[name]

    def float32(self, name: str) -> NDArray[np.float32]:
        """Give a tensor as read-only float32: the view itself when stored so, a converted copy otherwise."""
        self._refuse_quantized(name)
        array = to_float32(self.tensor(name), self._entry(name)[1].dtype)
        array.flags.writeable = False
        return array

    def release(self, name: str) -> None:
        """Give the memory of a tensor of a mapped file back; it is read from the file again when used."""
        file, info = self._entry(name)
        file.release(info.name, 0, info.nbytes)

    def weights(self, name: str, dtype: str = "auto") -> NDArray[Any] | memoryview | BFloat16Array:
        """Give a tensor in the dtype of that name, read-only: buffer(name) where it is stored so.

        dtype: "float32", "float16", "bfloat16", or "auto" for the one that is stored. Others are converted:
        exactly to float32, else to the nearest value, ties to even. Raises CheckpointError.
        """
        if dtype not in DTYPE_OPTIONS:
            raise CheckpointError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPE_OPTIONS)}")
        self._refuse_quantized(name)
        stored = self._entry(name)[1].dtype
        wanted = next((key for key, value in CONFIG_DTYPES.items() if value == dtype), stored)
        if wanted == stored:
            as_it_is = self.buffer(name)
            return BFloat16Array(as_it_is) if wanted == "BF16" else as_it_is
        import numpy as np

        array = np.empty(self.info(name).shape, STORED_DTYPES[wanted])
        flat, done = array.reshape(-1), 0
        for piece in self.pieces(name):  # so that the file's pages are not held beside the whole result
            flat[done : done + piece.size] = from_float32(to_float32(piece, stored), wanted)
            done += piece.size
        array.flags.writeable = False
        return BFloat16Array(array) if wanted == "BF16" else array

    def _refuse_quantized(self, name: str) -> None:
        if name in self._quantized:
            raise CheckpointError(
                f"{self.folder}: tensor {name!r} is quantised; let load_engine read it"
                if packed_format(self.config) is not None
                else f"{self.folder}: tensor {name!r} is quantised; load a model and dequantise it"
            )

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
    skip_safetensors: bool = False,
    allow_missing: bool = False,
    allow_mismatched: bool = False,
    mmap: bool = True,
    variant: str | None = None,
    key_mapping: Mapping[str, str] | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Checkpoint:
    """Open the weights of a folder, or of a model of the hub, checked against their configuration.

    Reads model.safetensors, else its shards, else (with `allow_pickle`) pytorch_model.bin or its shards; with
    `skip_safetensors` only the latter. Where there are none, reads an OpenAI checkpoint (model.ckpt.index and
    its data) with its hparams.json. `config` replaces the folder's config.json; `variant` "fp16" reads
    model.fp16.safetensors; `allow_missing` accepts a trunk that is not complete, `allow_mismatched` one of
    other shapes. `key_mapping`, from regular expressions to what replaces them, is applied to the names in
    the files. With `mmap` the file is used where it lies: it costs
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
        skip_safetensors=skip_safetensors,
        variant=variant,
    )
    if config is None:
        config = GPT2Config.from_json_file(config_file(folder))
    found = find_weights(
        folder, allow_pickle=allow_pickle, variant=variant, skip_safetensors=skip_safetensors
    )
    files = open_files(found, mmap)
    try:
        checkpoint = Checkpoint(
            folder,
            config,
            files,
            allow_missing=allow_missing,
            allow_mismatched=allow_mismatched,
            key_mapping=key_mapping,
        )
        for file in files:
            file.map(mmap)
    except BaseException:
        for file in files:
            file.close()
        raise
    checkpoint._drop_tied_head()
    return checkpoint


def checkpoint_of_tensors(
    state_dict: Mapping[str, torch.Tensor],
    config: GPT2Config,
    *,
    key_mapping: Mapping[str, str] | None = None,
) -> Checkpoint:
    """Treat torch tensors in memory as a checkpoint, which may lack weights. Raises CheckpointError."""
    from gpt2kit.checkpoint.torch_file import TorchFile

    file = TorchFile.of_tensors(state_dict)
    checkpoint = Checkpoint(
        file.path, config, [file], allow_missing=True, allow_mismatched=True, key_mapping=key_mapping
    )
    checkpoint._drop_tied_head()
    return checkpoint


def _compiled(key_mapping: Mapping[str, str]) -> list[tuple[re.Pattern[str], str]]:
    try:
        pairs = [(re.compile(pattern), replacement) for pattern, replacement in key_mapping.items()]
        for pattern, replacement in pairs:
            pattern.sub(replacement, "")  # a replacement may name a group that is not there
    except (re.error, TypeError) as error:
        raise CheckpointError(
            f"key_mapping maps regular expressions to replacements, and one is none: {error}"
        ) from None
    return pairs
