"""NativeEngine: GPT-2 on the CPU in C++, without torch.

This file holds what Python must do: names, errors and the Protocol. The arithmetic is in native/src.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from gpt2kit import _native
from gpt2kit.checkpoint import BFloat16Array
from gpt2kit.checkpoint.packed import PackedInt8
from gpt2kit.config import GenerationConfig, GPT2Config
from gpt2kit.config.packed import packed_format
from gpt2kit.engine.compute import Compute, computing
from gpt2kit.engine.quantize import is_matrix, native_weights
from gpt2kit.errors import EngineError, GenerationError
from gpt2kit.generation import generate
from gpt2kit.generation.protocol import Engine, NewTokens, Output, Phase, Sequence, phases
from gpt2kit.generation.strategies.options import Guesses

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from gpt2kit.checkpoint import Checkpoint
    from gpt2kit.generation.options import Options

# One tensor of the weights; a memoryview holds float32. A matrix may be a PackedInt8; wte.weight and lm_head.weight
# then are (n_embd, vocabulary). In quotes, since a packed folder runs without numpy.
WeightArray: TypeAlias = (
    "npt.NDArray[np.float32] | npt.NDArray[np.float16] | memoryview | BFloat16Array | PackedInt8"
)

KvCacheDtype = Literal["float32", "bfloat16", "int8"]

# A head is scanned only where it has so many bytes, as a smaller one stays in the processor's cache, and only after so
# many passes that could have used the copy of it, as making the copy takes the time that some 20 to 50 of them save.
SCANNED_HEAD_BYTES = 1 << 24
SCAN_AFTER_PASSES = 32

# Names of activation_function that have a native kernel.
ACTIVATIONS = frozenset(
    [
        "gelu_new",
        "gelu_pytorch_tanh",
        "gelu_fast",
        "gelu_accurate",
        "gelu",
        "gelu_python",
        "quick_gelu",
        "relu",
        "silu",
        "swish",
        "tanh",
        "sigmoid",
        "linear",
    ]
)

_NO_GUESSES = Guesses(0, 1, None, True, 0.0)
# Longer matches than this tell no more.
_MAX_NGRAM = 1 << 20


def available_threads() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def unsupported_reason(config: GPT2Config) -> str | None:
    """Say why the native engine cannot run this configuration, or return None when it can."""
    if config.add_cross_attention:
        return "add_cross_attention=True has no native implementation"
    if config.pruned_heads and any(config.pruned_heads.values()):
        return "heads are pruned, and the native kernels take all layers to have n_head of them"
    if hasattr(config, "quantization_config") and packed_format(config) is None:
        return "its weights are quantised by bitsandbytes"
    if config.activation_function not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        return f"activation_function {config.activation_function!r} has no native kernel; it has {known}"
    return None


def _refuse_unsupported(config: GPT2Config) -> None:
    reason = unsupported_reason(config)
    if reason is not None:
        raise EngineError(f"the native engine cannot run this model: {reason}; use engine='torch'")


def shallower(config: GPT2Config, n_layer: int) -> GPT2Config:
    """Return the configuration of a model's first n_layer blocks; raises EngineError when there are fewer."""
    if not 1 <= n_layer <= config.n_layer:
        raise EngineError(f"n_layer is {n_layer}; the model has blocks 1 to {config.n_layer}")
    found: GPT2Config = GPT2Config.from_dict({**config.to_dict(), "n_layer": n_layer})
    return found


def _bits(name: str, array: WeightArray) -> dict[str, npt.NDArray[Any] | memoryview]:
    """Give what the core reads: bfloat16 goes as uint16, which therefore may come from BFloat16Array only."""
    if isinstance(array, BFloat16Array):
        return {name: array.bits}
    if isinstance(array, PackedInt8):
        return {name: array.codes, f"{name}.scales": array.scales}
    dtype = getattr(array, "dtype", "float32")  # the core knows the formats of other buffers
    if dtype not in ("float32", "float16"):
        raise TypeError(
            f"tensor {name!r} must be a C-contiguous array of float32, float16 or bfloat16, not {dtype}; "
            "wrap the bits of bfloat16 in a BFloat16Array"
        )
    return {name: array}


def _head_numbers(weights: Mapping[str, WeightArray]) -> Any:
    """Give the array of the head's numbers, or of their bits; None for those of int8, which are not scanned."""
    array = weights.get("lm_head.weight", weights.get("wte.weight"))
    if isinstance(array, BFloat16Array):
        return array.bits
    return None if isinstance(array, PackedInt8) else array


def _scan_options(weights: Mapping[str, WeightArray]) -> dict[str, Any]:
    """Give the core's arguments for the scan of the head. Raises EngineError where the head may change."""
    numbers = _head_numbers(weights)
    if numbers is None:
        return {}
    view = memoryview(numbers)
    if not view.readonly:
        raise EngineError(
            "head_scan=True needs a head that never changes, and its array is writeable; set its flags.writeable to "
            "False, or leave head_scan out"
        )
    is_mapped = isinstance(view.obj, mmap.mmap) and memoryview(view.obj).readonly
    is_large = view.nbytes >= SCANNED_HEAD_BYTES
    return {"head_scan_after": SCAN_AFTER_PASSES if is_large else -1, "head_is_mapped": is_mapped}


class NativeEngine:
    """Runs a GPT-2 on the CPU over weights in float32, bfloat16, float16 or int8.

    Weights are read where they lie at every call: what changes in them shows at once. By default all arithmetic is
    float32. 16-bit weights are widened, which is exact, as they are read: results are those of the same weights in
    float32, to the bit. What meets an int8 matrix is rounded to 16 bits, a hundredth of the rounding of its weights,
    or, in prompts, to 8. With compute="bfloat16" what a matrix multiplies is rounded to bfloat16 first, prompts and
    single tokens alike; sums, norms, attention, activation functions and the residual stream stay in float32.

    A row's result depends on its own tokens and their phases only, to the bit: not on the batch, on how a prompt is
    cut into calls, on the number of threads or on the instruction set. Safe to call from several threads; calls
    take turns.
    """

    def __init__(
        self,
        config: GPT2Config,
        weights: Mapping[str, WeightArray],
        *,
        threads: int | None = None,
        isa: str | None = None,
        compute: Compute | None = None,
        kv_cache_dtype: KvCacheDtype = "float32",
        generation_config: GenerationConfig | None = None,
        head_scan: bool = False,
    ) -> None:
        """Take weights under the checkpoint's names, without the prefix `transformer.`.

        weights: float32, float16 or BFloat16Array, each tensor as it likes, C-contiguous; used where they lie
            and kept alive. `lm_head.weight` only where the head is not tied to `wte.weight`. Matrices may be
            PackedInt8 (quant/int8.py).
        threads: how many to compute with, by default all that the process may use.
        isa: "reference", "avx2" or "avx512" to force one; by default GPT2KIT_ISA, else the best there is.
        compute: what activations become before each product with a matrix. "bfloat16": then prompts take half the
            time on a processor with AVX512-BF16; all matrices but wpe must be bfloat16. "int16" and "int8", for int8
            matrices: integers, in both phases. "auto", or None: "float32", and with int8 matrices 8 bits in prompts
            and 16 in what is generated.
        kv_cache_dtype: what keys and values are kept in. "bfloat16" takes half of the memory and "int8", with a scale
            for each token and head, some 27 %; attention reads that much less. It computes in float32 over what the
            cache holds, tokens of the same call included, so results depend on nothing else.
        generation_config: defaults for generate().
        head_scan: let generate() keep a copy of the head in 8 bits and read that for each token, then only those rows
            of the head whose logits may matter: the same ids, sooner, for a quarter of a float32 head's memory. The
            head's weights must never change, so their array must not be writeable.
        Raises EngineError for a configuration that has no native implementation or an unusable argument.
        """
        _refuse_unsupported(config)
        if threads is not None and not 1 <= threads <= 1024:
            raise EngineError(f"threads is {threads}; it must be from 1 to 1024")
        self._config = config
        self._weights = dict(weights)
        self._computing = computing(
            compute,
            {
                "int8" if isinstance(array, PackedInt8) else "float"
                for name, array in weights.items()
                if is_matrix(name)
            },
        )
        self._head_scan = head_scan
        self._kv_cache_dtype: KvCacheDtype = kv_cache_dtype
        self.generation_config = generation_config
        try:
            self._model = _native.NativeModel(
                n_layer=config.n_layer,
                n_head=config.n_head,
                n_embd=config.n_embd,
                n_inner=config.n_inner if config.n_inner is not None else 4 * config.n_embd,
                n_positions=config.n_positions,
                vocab_size=config.vocab_size,
                activation_function=config.activation_function,
                layer_norm_epsilon=config.layer_norm_epsilon,
                scale_attn_weights=config.scale_attn_weights,
                scale_attn_by_inverse_layer_idx=config.scale_attn_by_inverse_layer_idx,
                weights={
                    key: part for name, array in weights.items() for key, part in _bits(name, array).items()
                },
                threads=threads if threads is not None else available_threads(),
                isa=isa,
                compute=self._computing.floats,
                prefill_precision=self._computing.prefill,
                decode_precision=self._computing.decode,
                **(_scan_options(self._weights) if head_scan else {}),
                kv_cache_dtype=kv_cache_dtype,
            )
        except (ValueError, TypeError, RuntimeError) as error:
            raise EngineError(str(error)) from error

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        *,
        dtype: str = "auto",
        quant: str | None = None,
        quant_cache: bool = True,
        threads: int | None = None,
        isa: str | None = None,
        compute: Compute | None = None,
        kv_cache_dtype: KvCacheDtype = "float32",
        generation_config: GenerationConfig | None = None,
        head_scan: bool = True,
    ) -> NativeEngine:
        """Use a checkpoint's weights.

        dtype: "auto" uses each tensor where it lies in the file; "float32", "bfloat16" and "float16" convert
            those that are stored otherwise, once.
        quant: "int8" holds every matrix, the embeddings and the head among them, in 8 bits; it needs dtype "auto".
            A packed folder has its format already.
        quant_cache: as for load_engine.
        threads, isa, compute, kv_cache_dtype, generation_config, head_scan: as for NativeEngine.
        """
        _refuse_unsupported(checkpoint.config)
        names = [
            name
            for name in checkpoint.names()
            if name.startswith(("wte.", "wpe.", "h.", "ln_f.", "lm_head."))
        ]
        if checkpoint.config.tie_word_embeddings and "lm_head.weight" in names:
            names.remove("lm_head.weight")
        num_threads = threads if threads is not None else available_threads()
        weights = native_weights(
            checkpoint, names, dtype, quant, quant_cache=quant_cache, threads=num_threads
        )
        return cls(
            checkpoint.config,
            weights,
            threads=threads,
            isa=isa,
            compute=compute,
            kv_cache_dtype=kv_cache_dtype,
            generation_config=generation_config,
            head_scan=head_scan,
        )

    @property
    def config(self) -> GPT2Config:
        """The shape of the model."""
        return self._config

    @property
    def isa(self) -> str:
        """The instruction set in use: "reference", "avx2" or "avx512"."""
        return str(self._model.isa)

    @property
    def compute(self) -> Compute:
        """What activations become before products: "auto" where that depends on the phase."""
        return self._computing.name

    @property
    def kv_cache_dtype(self) -> KvCacheDtype:
        """What keys and values are kept in."""
        return self._kv_cache_dtype

    @property
    def quant(self) -> str | None:
        """The format of the matrices: "int8", "mixed" where only some are in it, or None."""
        matrices = [array for name, array in self._weights.items() if is_matrix(name)]
        count = sum(isinstance(array, PackedInt8) for array in matrices)
        return None if count == 0 else "int8" if count == len(matrices) else "mixed"

    @property
    def threads(self) -> int:
        """How many threads compute."""
        return int(self._model.threads)

    @property
    def weights(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays that are read, by name; those in bfloat16 as their bits, those in int8 with their scales."""
        import numpy as np

        return {
            key: np.asarray(part)
            for name, array in self._weights.items()
            for key, part in _bits(name, array).items()
        }

    @property
    def head_scan_counts(self) -> dict[str, int]:
        """What the scan of the head has done so far.

        rows: for how many tokens; logits: how many were computed for them; full_shares: how often a thread computed
        all of its share, as too many might matter; bytes: of the copy, 0 as long as there is none.
        """
        return self._model.head_scan_counts()

    def new_sequence(self) -> _native.KvSequence:
        """Return an empty sequence with room for n_positions tokens; memory is taken as it fills."""
        return self._model.new_sequence()

    def new_sequence_from(self, keys: npt.ArrayLike, values: npt.ArrayLike) -> _native.KvSequence:
        """Return a sequence that starts with copies of the keys and values of S tokens.

        Both (n_layer, n_head, S, n_embd / n_head), as a sequence's keys_values() gives them and as torch's caches
        hold them for one text; rounded to kv_cache_dtype, which changes nothing in what keys_values() gave.
        Raises EngineError for another shape.
        """
        import numpy as np

        try:
            return self._model.new_sequence_from(
                np.ascontiguousarray(keys, np.float32), np.ascontiguousarray(values, np.float32)
            )
        except (ValueError, TypeError) as error:
            raise EngineError(str(error)) from error

    def forward(
        self,
        work: list[tuple[Sequence, list[int]]],
        *,
        logits: Literal["last", "all"] | None = "last",
        hidden: bool = False,
        hidden_states: bool = False,
        attentions: bool = False,
        head_mask: npt.ArrayLike | None = None,
        phase: Phase | Items[Phase] = "prefill",
    ) -> list[Output]:
        """Append each row's new ids to its sequence and return one Output a row, in order.

        head_mask: (n_layer, n_head), multiplies the attention probabilities of each head.
        phase: of all rows, or of each. It matters to int8 matrices with compute "auto" alone.
        Raises EngineError for ids out of range, too many tokens, a head_mask of another shape, or a sequence
        that is freed, foreign or used twice; then no sequence has changed.
        """
        import numpy as np

        lengths = [len(ids) for _, ids in work]
        try:
            mask = None if head_mask is None else np.ascontiguousarray(head_mask, np.float32)
            all_logits, all_hidden, all_hidden_states, all_attentions = self._model.forward(
                [sequence for sequence, _ in work],
                [list(ids) for _, ids in work],
                logits="none" if logits is None else logits,
                hidden=hidden,
                hidden_states=hidden_states,
                attentions=attentions,
                head_mask=mask,
                phases=phases(phase, len(work)),
            )
        except (ValueError, TypeError) as error:
            raise EngineError(str(error)) from error
        outputs = []
        start = 0
        for row, length in enumerate(lengths):
            output = Output()
            if logits == "last":
                output.logits = all_logits[row]
            elif logits == "all":
                output.logits = all_logits[start : start + length]
            if hidden:
                output.hidden = all_hidden[start : start + length]
            if hidden_states:
                output.hidden_states = all_hidden_states[row]
            if attentions:
                output.attentions = all_attentions[row]
            outputs.append(output)
            start += length
        return outputs

    def head(self, states: npt.NDArray[np.float32], *, phase: Phase = "prefill") -> npt.NDArray[np.float32]:
        """Return logits (N, V) for hidden states (N, C), which are multiplied by the head as they are."""
        try:
            return self._model.project(states, phase)
        except (ValueError, TypeError) as error:
            raise EngineError(str(error)) from error

    def first_layers(self, n_layer: int) -> NativeEngine:
        """Return an engine of the first n_layer blocks, the last norm and the head, over the same weights."""
        config = shallower(self._config, n_layer)
        return NativeEngine(
            config,
            self._weights,
            threads=self.threads,
            isa=self.isa,
            compute=self.compute,
            head_scan=self._head_scan,
            kv_cache_dtype=self._kv_cache_dtype,
        )

    def generate(
        self,
        prompts: Items[Items[int]],
        max_new_tokens: int | None = None,
        *,
        seed: int | Items[int] | None = None,
        **options: Any,
    ) -> list[list[int]]:
        """Continue every prompt and return the new ids only, num_return_sequences rows a prompt.

        options: as `gpt2kit.generation.generate`; they win over generation_config.
        """
        if max_new_tokens is not None:
            options["max_new_tokens"] = max_new_tokens
        rows = generate(self, prompts, model_config=self.generation_config, seed=seed, **options)
        return [row.ids for row in rows]

    def generate_native(
        self,
        prompts: list[list[int]],
        options: Options,
        seeds: list[int],
        *,
        on_token: Callable[[int, int, int], bool] | None,
        max_rows: int,
        guesses: Guesses | None = None,
    ) -> list[NewTokens]:
        """Run the whole loop in C++; see `gpt2kit.generation.protocol.NativeLoop`."""
        if guesses is None:
            guesses = _NO_GUESSES
        assistant = guesses.assistant
        assert assistant is None or isinstance(assistant, NativeEngine)
        result = self._model.generate(
            prompts=prompts,
            max_new_tokens=list(options.max_new_tokens),
            min_new_tokens=list(options.min_new_tokens),
            seeds=seeds,
            num_return_sequences=options.num_return_sequences,
            eos_token_ids=list(options.eos_token_ids),
            do_sample=options.do_sample,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            typical_p=options.typical_p,
            epsilon_cutoff=options.epsilon_cutoff,
            eta_cutoff=options.eta_cutoff,
            repetition_penalty=options.repetition_penalty,
            no_repeat_ngram_size=options.no_repeat_ngram_size,
            bad_words_ids=[list(word) for word in options.bad_words_ids],
            num_assistant_tokens=min(guesses.num_tokens, self._config.n_positions),
            max_matching_ngram_size=min(guesses.max_matching_ngram_size, _MAX_NGRAM),
            assistant=None if assistant is None else assistant._model,
            is_constant_schedule=guesses.is_constant_schedule,
            assistant_confidence_threshold=guesses.assistant_confidence_threshold,
            clock=guesses.clock,
            max_rows=max_rows,
            on_token=on_token,
        )
        if isinstance(result, float):
            from gpt2kit.generation.sampling import no_choice_message

            raise GenerationError(no_choice_message(result))
        return [NewTokens(*row) for row in result]

    def can_guess_with(self, assistant: Engine) -> bool:
        """Whether generate_native can guess ahead with another engine, of the same vocabulary."""
        return isinstance(assistant, NativeEngine)
