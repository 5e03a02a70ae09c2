"""TorchEngine: GPT-2 in PyTorch behind the engines' Protocol, on any device that torch has.

Rows of a batch stand end to end on one time axis (RaggedCache), so there is no padding: a row sees only its
own tokens, and the modules, hooks and replaced layers of the model all run.
"""

import threading
from collections.abc import Callable
from collections.abc import Sequence as Items
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpt2kit.config import GenerationConfig, GPT2Config
from gpt2kit.engine.native import shallower
from gpt2kit.errors import ConfigError, EngineError
from gpt2kit.generation import generate
from gpt2kit.generation.protocol import Output, Sequence
from gpt2kit.model import DynamicCache, GPT2DoubleHeadsModel, GPT2LMHeadModel
from gpt2kit.model.cache import RaggedCache
from gpt2kit.model.cache_base import Cache
from gpt2kit.model.gpt2 import GPT2WithLMHead
from gpt2kit.model.loading import as_device

if TYPE_CHECKING:
    from gpt2kit.checkpoint import Checkpoint


class TorchSequence:
    """The cached keys and values of one text, on the engine's device."""

    def __init__(
        self, engine: "TorchEngine", cache: Cache, num_hidden: int = 0, embeds: Tensor | None = None
    ) -> None:
        """num_hidden: positions that stand for no id. embeds (T, C): embeddings to run before the next ids."""
        self.engine = engine
        self.cache = cache
        self.embeds = embeds
        self.is_freed = False
        self._num_hidden = num_hidden

    @property
    def length(self) -> int:
        """Number of tokens in the cache, or waiting as embeddings."""
        return self.num_positions - self._num_hidden

    @property
    def num_positions(self) -> int:
        """Number of positions taken, also by what stands for no id."""
        return self.cache.get_seq_length() + (0 if self.embeds is None else len(self.embeds))

    def fork(self) -> "TorchSequence":
        """Return a copy that continues on its own."""
        self._check_alive()
        return TorchSequence(self.engine, self.cache.fork(), self._num_hidden, self.embeds)

    def truncate(self, length: int) -> None:
        """Forget all tokens from position `length` on. Raises EngineError when there are fewer."""
        self._check_alive()
        if not 0 <= length <= self.length:
            raise EngineError(f"cannot truncate to {length} tokens; the sequence has {self.length}")
        if length < self.length:
            if self.embeds is not None or length < -self._num_hidden:
                raise EngineError("a sequence cannot be cut within what was given as embeddings")
            self.cache.crop(length - self.length)

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

    def __init__(
        self,
        model: GPT2WithLMHead,
        *,
        generation_config: GenerationConfig | None = None,
        new_cache: Callable[[], Cache] = DynamicCache,
        allow_training: bool = False,
    ) -> None:
        """Use a model as it is, on its device and in its dtype.

        generation_config: defaults for generate(). new_cache: makes the cache of a sequence.
        allow_training: take a model in training mode, with the dropout that it has there.
        """
        if model.training and not allow_training:
            raise EngineError(
                "the model is in training mode, where dropout is random; call model.eval() first"
            )
        self.model = model
        self.generation_config = generation_config
        self._new_cache = new_cache
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
        return TorchSequence(self, self._new_cache())

    def start(
        self, *, cache: Cache | None = None, embeds: Tensor | None = None, num_ids: int = 0
    ) -> TorchSequence:
        """Return a sequence that continues a cache, or whose beginning is given as embeddings (T, C).

        num_ids: how many of the positions stand for ids of the text; the others come before it and have none.
        """
        cache = self._new_cache() if cache is None else cache
        num_positions = cache.get_seq_length() + (0 if embeds is None else len(embeds))
        return TorchSequence(self, cache, num_positions - num_ids, embeds)

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
        with self._turn, torch.no_grad():
            sequences = [self._checked(sequence, ids) for sequence, ids in work]
            if len({id(sequence.cache) for sequence in sequences}) < len(sequences):
                raise EngineError("a sequence occurs twice in one call; fork it or make two calls")
            device = self.model.device
            num_new = [
                len(ids) + sequence.num_positions - sequence.cache.get_seq_length()
                for sequence, (_, ids) in zip(sequences, work, strict=True)
            ]
            ragged = RaggedCache([sequence.cache for sequence in sequences], num_new)
            ends = torch.tensor([end - 1 for _, end in ragged.spans], device=device)
            run = self.model.transformer if self._is_plain() else self.model
            output = run(
                **self._inputs(sequences, [ids for _, ids in work]),
                past_key_values=ragged,
                use_cache=True,
                output_hidden_states=hidden_states or (hidden and run is self.model),
                output_attentions=attentions,
                return_dict=True,
            )
            for sequence in sequences:
                sequence.embeds = None
            if run is self.model:
                all_logits = output.logits[0]  # (sum T, V)
                scored = all_logits[ends] if logits == "last" else all_logits
                states = output.hidden_states[-1][0] if hidden else None
            else:
                states = output.last_hidden_state[0]  # (sum T, C)
                scored = states[ends] if logits == "last" else states
                scored = self.model.lm_head(scored) if logits is not None else scored
            scores = None if logits is None else scored.float().cpu().numpy()
            features = states.float().cpu().numpy() if hidden and states is not None else None
            stream = torch.cat(output.hidden_states).float().cpu().numpy() if hidden_states else None
            weights = [
                torch.cat(layers).float().cpu().numpy()
                for layers in zip(*output.attentions or (), strict=True)
            ]
        outputs = []
        for index, (start, end) in enumerate(ragged.spans):
            row = Output(hidden=None if features is None else features[start:end])
            if scores is not None:
                row.logits = scores[index] if logits == "last" else scores[start:end]
            if stream is not None:
                row.hidden_states = stream[:, start:end]
            if attentions:
                row.attentions = weights[index]
            outputs.append(row)
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

    def _is_plain(self) -> bool:
        """Tell whether trunk and head are all there is to the model: no forward of its own, no hooks."""
        model = self.model
        return (
            type(model).forward in (GPT2LMHeadModel.forward, GPT2DoubleHeadsModel.forward)
            and "forward" not in model.__dict__
            and not model._forward_hooks
            and not model._forward_pre_hooks
        )

    def _inputs(self, sequences: list[TorchSequence], ids: list[list[int]]) -> dict[str, Tensor]:
        """Lay the rows' ids end to end, (1, sum T), or where embeddings wait, all rows' embeddings."""
        device = self.model.device
        if all(sequence.embeds is None for sequence in sequences):
            return {"input_ids": torch.tensor([[i for row in ids for i in row]], device=device)}
        wte = self.model.transformer.wte
        parts = []
        for sequence, row in zip(sequences, ids, strict=True):
            if sequence.embeds is not None:
                parts.append(sequence.embeds.to(device, self.model.dtype))
            parts.append(wte(torch.tensor(row, dtype=torch.long, device=device)))
        return {"inputs_embeds": torch.cat(parts)[None]}

    def _checked(self, sequence: Sequence, ids: list[int]) -> TorchSequence:
        """Give a sequence back, after checking that it can take the ids."""
        if not isinstance(sequence, TorchSequence) or sequence.engine is not self:
            raise EngineError("a sequence of another engine was given; use new_sequence() of this one")
        sequence._check_alive()
        if not ids and sequence.embeds is None:
            raise EngineError("a row has no ids; give at least one")
        worst = 0 if not ids else max(ids) if min(ids) >= 0 else min(ids)
        if not 0 <= worst < self.config.vocab_size:
            raise EngineError(f"id {worst} is out of range; vocab_size is {self.config.vocab_size}")
        total = sequence.num_positions + len(ids)
        if total > self.config.n_positions:
            raise EngineError(
                f"a row would have {total} tokens; n_positions is {self.config.n_positions}; shorten it"
            )
        return sequence
