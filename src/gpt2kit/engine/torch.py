"""TorchEngine: GPT-2 in PyTorch behind the engines' Protocol, on any device that torch has.

Rows of a batch stand end to end on one time axis (RaggedCache), so there is no padding: a row sees only its
own tokens, and the modules, hooks and replaced layers of the model all run.
"""

import threading
from collections.abc import Sequence as Items
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from gpt2kit.config import GenerationConfig, GPT2Config
from gpt2kit.engine.native import shallower
from gpt2kit.errors import ConfigError, EngineError
from gpt2kit.generation import generate
from gpt2kit.generation.protocol import Output, Sequence
from gpt2kit.model import DynamicCache, GPT2LMHeadModel
from gpt2kit.model.cache import RaggedCache
from gpt2kit.model.loading import as_device

if TYPE_CHECKING:
    from gpt2kit.checkpoint import Checkpoint


class TorchSequence:
    """The cached keys and values of one text, on the engine's device."""

    def __init__(self, engine: "TorchEngine", cache: DynamicCache) -> None:
        self.engine = engine
        self.cache = cache
        self.is_freed = False

    @property
    def length(self) -> int:
        """Number of tokens in the cache."""
        return self.cache.get_seq_length()

    def fork(self) -> "TorchSequence":
        """Return a copy that continues on its own."""
        self._check_alive()
        with torch.inference_mode():
            return TorchSequence(self.engine, self.cache.clone())

    def truncate(self, length: int) -> None:
        """Forget all tokens from position `length` on. Raises EngineError when there are fewer."""
        self._check_alive()
        if not 0 <= length <= self.length:
            raise EngineError(f"cannot truncate to {length} tokens; the sequence has {self.length}")
        self.cache.truncate(length)

    def free(self) -> None:
        """Give the memory back."""
        self.is_freed = True
        self.cache.reset()

    def _check_alive(self) -> None:
        if self.is_freed:
            raise EngineError("the sequence was freed; ask the engine for a new one")


class TorchEngine:
    """Runs a GPT2LMHeadModel. Safe to call from several threads; calls take turns.

    Logits of a row in a batch and alone agree to rounding, as torch's matrix products depend on their shapes.
    """

    def __init__(self, model: GPT2LMHeadModel, *, generation_config: GenerationConfig | None = None) -> None:
        """Use a model as it is, on its device and in its dtype; it must be in eval mode.

        generation_config: defaults for generate().
        """
        if model.training:
            raise EngineError(
                "the model is in training mode, where dropout is random; call model.eval() first"
            )
        self.model = model
        self.generation_config = generation_config
        self._turn = threading.Lock()

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: "Checkpoint",
        *,
        dtype: str = "auto",
        device: str | int | torch.device = "cpu",
        generation_config: GenerationConfig | None = None,
    ) -> "TorchEngine":
        """Load a checkpoint's weights onto a device.

        dtype: "float32", "bfloat16", "float16", or "auto": float32 on the CPU, elsewhere the file's.
        device: a torch device, "auto" for the accelerator if there is one, or an accelerator's number.
        Raises EngineError for a device or dtype that is not there, CheckpointError for bad weights.
        """
        try:
            place = as_device(device)
            if dtype == "auto" and place.type == "cpu":
                dtype = "float32"
            model = GPT2LMHeadModel.from_pretrained(checkpoint, dtype=dtype)
        except ConfigError as error:
            raise EngineError(str(error)) from None
        return cls(model.to(place), generation_config=generation_config)

    @property
    def config(self) -> GPT2Config:
        """The shape of the model."""
        return self.model.config

    def new_sequence(self) -> TorchSequence:
        """Return an empty sequence."""
        return TorchSequence(self, DynamicCache())

    def forward(
        self,
        work: list[tuple[Sequence, list[int]]],
        *,
        logits: Literal["last", "all"] | None = "last",
        hidden: bool = False,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> list[Output]:
        """Append each row's new ids to its sequence and return one Output a row, in order.

        Raises EngineError for ids out of range, too many tokens, or a sequence that is freed, foreign or used
        twice; then no sequence has changed.
        """
        if logits not in ("last", "all", None):
            raise EngineError(f"logits is {logits!r}; it must be 'last', 'all' or None")
        if not work:
            return []
        with self._turn, torch.inference_mode():
            caches = [self._checked(sequence, ids) for sequence, ids in work]
            if len({id(cache) for cache in caches}) < len(caches):
                raise EngineError("a sequence occurs twice in one call; fork it or make two calls")
            device = self.model.device
            ragged = RaggedCache(caches, [len(ids) for _, ids in work])
            input_ids = torch.tensor([[i for _, ids in work for i in ids]], device=device)
            trunk = self.model.transformer(
                input_ids,
                past_key_values=ragged,
                use_cache=True,
                output_hidden_states=hidden_states,
                output_attentions=attentions,
                return_dict=True,
            )
            states = trunk.last_hidden_state[0]  # (sum T, C)
            ends = [end - 1 for _, end in ragged.spans]
            scored = states[torch.tensor(ends, device=device)] if logits == "last" else states
            scores = None if logits is None else self.model.lm_head(scored).float().cpu().numpy()
            features = states.float().cpu().numpy() if hidden else None
            stream = torch.cat(trunk.hidden_states).float().cpu().numpy() if hidden_states else None
            weights = [
                torch.cat(layers).float().cpu().numpy()
                for layers in zip(*trunk.attentions or (), strict=True)
            ]
        outputs = []
        for row, (start, end) in enumerate(ragged.spans):
            output = Output(hidden=None if features is None else features[start:end])
            if scores is not None:
                output.logits = scores[row] if logits == "last" else scores[start:end]
            if stream is not None:
                output.hidden_states = stream[:, start:end]
            if attentions:
                output.attentions = weights[row]
            outputs.append(output)
        return outputs

    def head(self, states: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return logits (N, V) for hidden states (N, C), which are multiplied by the head as they are."""
        with self._turn, torch.inference_mode():
            logits = self.model.lm_head(torch.from_numpy(states).to(self.model.device, self.model.dtype))
            result: npt.NDArray[np.float32] = logits.float().cpu().numpy()
        return result

    def first_layers(self, n_layer: int) -> "TorchEngine":
        """Return an engine of the first n_layer blocks, the last norm and the head, over the same modules."""
        with torch.device("meta"):
            model = GPT2LMHeadModel(shallower(self.config, n_layer))
        trunk, whole = model.transformer, self.model.transformer
        for name in ("wte", "wpe", "ln_f"):
            setattr(trunk, name, getattr(whole, name))
        trunk.h = whole.h[:n_layer]
        model.lm_head = self.model.lm_head
        return TorchEngine(model.eval())

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

    def _checked(self, sequence: Sequence, ids: list[int]) -> DynamicCache:
        """Give a sequence's cache, after checking that it can take the ids."""
        if not isinstance(sequence, TorchSequence) or sequence.engine is not self:
            raise EngineError("a sequence of another engine was given; use new_sequence() of this one")
        sequence._check_alive()
        if not ids:
            raise EngineError("a row has no ids; give at least one")
        worst = max(ids) if min(ids) >= 0 else min(ids)
        if not 0 <= worst < self.config.vocab_size:
            raise EngineError(f"id {worst} is out of range; vocab_size is {self.config.vocab_size}")
        total = sequence.length + len(ids)
        if total > self.config.n_positions:
            raise EngineError(
                f"a row would have {total} tokens; n_positions is {self.config.n_positions}; shorten it"
            )
        return sequence.cache
