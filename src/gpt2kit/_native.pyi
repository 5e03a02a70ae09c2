"""Types of the C++ core."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_Ids = npt.NDArray[np.int32]
_Splits = npt.NDArray[np.int64]

class Bpe:
    """Byte-level BPE. Texts may be str, or bytes that need not be UTF-8. Immutable; any thread may use it."""

    def __init__(self, vocab: bytes, merges: bytes, merges_are_json: bool, ignore_merges: bool) -> None: ...
    def with_added_tokens(
        self, tokens: Sequence[tuple[str, int, bool, bool, bool, bool, bool]], unknown: int | None
    ) -> Bpe: ...
    def encode(self, text: str | bytes, split_special: bool, prefix_space: bool) -> list[int]: ...
    def encode_lists(
        self, texts: Sequence[str | bytes], split_special: bool, prefix_space: bool, threads: int
    ) -> list[list[int]]: ...
    def encode_arrays(
        self, texts: Sequence[str | bytes], split_special: bool, prefix_space: bool, threads: int
    ) -> tuple[_Ids, _Splits]: ...
    def encode_details(
        self, texts: Sequence[str | bytes], split_special: bool, prefix_space: bool, threads: int
    ) -> tuple[_Ids, _Splits, _Ids, _Ids, _Ids]: ...
    def decode(self, ids: Iterable[int]) -> bytes: ...
    def token_to_id(self, token: str) -> int | None: ...
    def id_to_token(self, id: int) -> str | None: ...
    def vocab(self) -> dict[str, int]: ...
    def merges(self) -> list[tuple[str, str]]: ...
    @property
    def ignore_merges(self) -> bool: ...
    @property
    def size(self) -> int: ...
    @property
    def max_id(self) -> int: ...

def model_spans(text: bytes) -> tuple[tuple[int, int], tuple[int, int]]: ...

class KvSequence:
    """The keys and values of one sequence. ValueError for any use after free()."""

    @property
    def length(self) -> int: ...
    @property
    def is_free(self) -> bool: ...
    @property
    def nbytes(self) -> int: ...
    def keys_values(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]: ...
    def fork(self) -> KvSequence: ...
    def truncate(self, length: int) -> None: ...
    def free(self) -> None: ...

class NativeModel:
    """A GPT-2 over arrays that it keeps alive. ValueError or TypeError for what does not fit.

    weights: float32, float16, or uint16 holding the bits of bfloat16; a matrix also as uint8 codes, with scales under
    its name and ".scales" (gpt2kit.quant.PackedInt8).
    """

    def __init__(
        self,
        n_layer: int,
        n_head: int,
        n_embd: int,
        n_inner: int,
        n_positions: int,
        vocab_size: int,
        activation_function: str,
        layer_norm_epsilon: float,
        scale_attn_weights: bool,
        scale_attn_by_inverse_layer_idx: bool,
        weights: Mapping[str, npt.NDArray[Any] | memoryview],
        threads: int,
        isa: str | None = None,
        compute: str = "float32",
        prefill_precision: str = "int16",
        decode_precision: str = "int16",
        kv_cache_dtype: str = "float32",
        head_scan_after: int = -1,
        head_is_mapped: bool = False,
    ) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    def head_scan_counts(self) -> dict[str, int]: ...
    def new_sequence(self) -> KvSequence: ...
    def new_sequence_from(
        self, keys: npt.NDArray[np.float32], values: npt.NDArray[np.float32]
    ) -> KvSequence: ...
    def forward(
        self,
        sequences: Sequence[Any],
        token_ids: Sequence[Sequence[int]],
        logits: str,
        hidden: bool,
        hidden_states: bool,
        attentions: bool,
        head_mask: npt.NDArray[np.float32] | None,
        phases: Sequence[str],
    ) -> tuple[Any, Any, Any, Any]: ...
    def project(self, states: npt.NDArray[np.float32], phase: str) -> npt.NDArray[np.float32]: ...
    def head_upper_bounds(self, states: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None: ...
    def generate(
        self,
        *,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: Sequence[int],
        min_new_tokens: Sequence[int],
        seeds: Sequence[int],
        num_return_sequences: int,
        eos_token_ids: Sequence[int],
        do_sample: bool,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        typical_p: float,
        epsilon_cutoff: float,
        eta_cutoff: float,
        repetition_penalty: float,
        no_repeat_ngram_size: int,
        bad_words_ids: Sequence[Sequence[int]],
        num_assistant_tokens: int,
        max_matching_ngram_size: int,
        assistant: NativeModel | None,
        is_constant_schedule: bool,
        assistant_confidence_threshold: float,
        clock: Callable[[], float] | None,
        max_rows: int,
        on_token: Callable[[int, int, int], bool] | None,
    ) -> list[tuple[list[int], int, int]] | float: ...

def coin(seed: int, row: int, position: int) -> float: ...
def supported_isas() -> list[str]: ...
def isa() -> str: ...
def read_bytes_per_s(arrays: Sequence[npt.NDArray[Any]], threads: int, passes: int) -> list[float]: ...
def operations_per_s(arithmetic: str, threads: int, passes: int) -> list[float]: ...
def are_scales(scales: npt.NDArray[np.uint16] | memoryview) -> bool:
    """Whether all numbers, given as the bits of bfloat16, are finite and not negative."""

def round_to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Bits of the nearest bfloat16, ties to even; NaN stays NaN, quiet, with its sign and upper bits."""

def widen(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """float32 of float32, float16, or uint16 holding the bits of bfloat16, exactly."""

def prefault(bytes: memoryview) -> None:
    """Map the pages of a mapped file in a thread of its own, and return at once. Does nothing where Linux cannot."""

def pack_int8(
    weights: npt.NDArray[Any], is_transposed: bool, threads: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]] | None:
    """Codes and scales of a matrix (in, out), or with is_transposed (out, in); None for weights without a scale.

    weights: float32, float16, or uint16 holding the bits of bfloat16.
    """
