"""TorchEngine: GPT-2 in PyTorch behind the engines' Protocol, on any device that torch has.

Rows of a batch stand end to end on one time axis (RaggedCache), so there is no padding: a row sees only its
own tokens, and the modules, hooks and replaced layers of the model all run.
"""

import threading
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpt2kit.config import GenerationConfig, GPT2Config
from gpt2kit.engine.native import shallower
from gpt2kit.engine.torch_sequence import TorchSequence
from gpt2kit.errors import ConfigError, EngineError
from gpt2kit.generation import generate
from gpt2kit.generation.protocol import Output, Phase, Sequence
from gpt2kit.model import DynamicCache, GPT2DoubleHeadsModel, GPT2LMHeadModel
from gpt2kit.model.cache.base import Cache
from gpt2kit.model.cache.caches import EncoderDecoderCache, RaggedCache
from gpt2kit.model.gpt2 import GPT2WithLMHead
from gpt2kit.model.pretrained.placement import as_device

if TYPE_CHECKING:
    from gpt2kit.checkpoint import Checkpoint


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
        forward_inputs: Mapping[str, Tensor] | None = None,
        allow_training: bool = False,
    ) -> None:
        """Use a model as it is, on its device and in its dtype.

        generation_config: defaults for generate(). new_cache: makes the cache of a sequence.
        forward_inputs: further arguments of every pass of the model that say nothing of single rows: head_mask.
        allow_training: take a model in training mode, with the dropout that it has there.
        """
        if model.training and not allow_training:
            raise EngineError(
                "the model is in training mode, where dropout is random; call model.eval() first"
            )
        self.model = model
        self.generation_config = generation_config
        self._new_cache = new_cache
        self._forward_inputs = dict(forward_inputs or {})
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

    def start(self, *, cache: Cache | None = None, num_ids: int = 0, **parts: Any) -> TorchSequence:
        """Return a sequence that continues a cache, or begins with embeddings, token types or an encoder.

        parts: as TorchSequence takes them. num_ids: how many of the positions that are cached or given as
        embeddings stand for ids of the text; the others come before them and have none.
        """
        sequence = TorchSequence(self, self._new_cache() if cache is None else cache, **parts)
        if sequence.encoder is not None and not isinstance(sequence.cache, EncoderDecoderCache):
            sequence.cache = EncoderDecoderCache(sequence.cache, DynamicCache())
        sequence.num_hidden = sequence.num_positions - num_ids
        return sequence

    def forward(
        self,
        work: list[tuple[Sequence, list[int]]],
        *,
        logits: Literal["last", "all"] | None = "last",
        hidden: bool = False,
        hidden_states: bool = False,
        attentions: bool = False,
        phase: Phase | Items[Phase] = "prefill",
    ) -> list[Output]:
        """Append each row's new ids to its sequence and return one Output a row, in order.

        phase: changes nothing here.
        Raises EngineError for ids out of range, too many tokens, or a sequence that is freed, foreign or used
        twice; then no sequence has changed.
        """
        if logits not in ("last", "all", None):
            raise EngineError(f"logits is {logits!r}; it must be 'last', 'all' or None")
        if not work:
            return []
        with self._turn, torch.no_grad():
            rows = [(self._checked(sequence, ids), ids) for sequence, ids in work]
            if len({id(sequence.cache) for sequence, _ in rows}) < len(rows):
                raise EngineError("a sequence occurs twice in one call; fork it or make two calls")
            # A row with an encoder goes by itself: cross-attention knows no ragged rows.
            together = [row for row in rows if row[0].encoder is None]
            batches = ([together] if together else []) + [[row] for row in rows if row[0].encoder is not None]
            outputs: dict[int, Output] = {}
            for batch in batches:
                run = self._run(batch, logits, hidden, hidden_states, attentions)
                outputs.update(zip((id(sequence) for sequence, _ in batch), run, strict=True))
        return [outputs[id(sequence)] for sequence, _ in rows]

    def _run(
        self,
        rows: list[tuple[TorchSequence, list[int]]],
        logits: Literal["last", "all"] | None,
        hidden: bool,
        hidden_states: bool,
        attentions: bool,
    ) -> list[Output]:
        """Run checked rows end to end in one pass of the model."""
        sequences = [sequence for sequence, _ in rows]
        ragged = RaggedCache(
            [sequence.cache for sequence in sequences],
            [sequence.num_waiting + len(ids) for sequence, ids in rows],
        )
        ends = torch.tensor([end - 1 for _, end in ragged.spans], device=self.model.device)
        encoder = sequences[0].encoder
        module = self.model.transformer if self._is_plain() else self.model
        output = module(
            **self._inputs(sequences, [ids for _, ids in rows]),
            **self._forward_inputs,
            past_key_values=ragged if encoder is None else sequences[0].cache,
            use_cache=True,
            output_hidden_states=hidden_states or (hidden and module is self.model),
            output_attentions=attentions,
            return_dict=True,
        )
        for sequence in sequences:
            sequence.embeds = None
        if module is self.model:
            all_logits = output.logits[0]  # (sum T, V)
            scored = all_logits[ends] if logits == "last" else all_logits
            states = output.hidden_states[-1][0] if hidden else None
        else:
            states = output.last_hidden_state[0]  # (sum T, C)
            scored = states[ends] if logits == "last" else states
            scored = self.model.lm_head(scored) if logits is not None else scored
        scores = None if logits is None else _numpy(scored)
        features = _numpy(states) if hidden and states is not None else None
        stream = _numpy(torch.cat(output.hidden_states)) if hidden_states else None
        layers = [layer if encoder is None else (layer,) for layer in output.attentions or ()]
        weights = [_numpy(torch.cat(row)) for row in zip(*layers, strict=True)]
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

    def head(self, states: npt.NDArray[np.float32], *, phase: Phase = "prefill") -> npt.NDArray[np.float32]:
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
        for name in ("wte", "wpe", "drop", "ln_f"):
            setattr(trunk, name, getattr(whole, name))
        trunk.h = whole.h[:n_layer]
        model.lm_head = self.model.lm_head
        return TorchEngine(model, allow_training=True)

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
        inputs = dict(sequences[0].encoder or {})
        types = [
            sequence.next_token_type_ids(sequence.num_waiting + len(row))
            for sequence, row in zip(sequences, ids, strict=True)
        ]
        given = [row for row in types if row is not None]
        if given:
            if len(given) < len(types):
                raise EngineError("some rows have token_type_ids and others none; give them to all")
            inputs["token_type_ids"] = torch.cat(given)[None].to(device)
        if all(sequence.embeds is None for sequence in sequences):
            return inputs | {"input_ids": torch.tensor([[i for row in ids for i in row]], device=device)}
        wte = self.model.transformer.wte
        parts = []
        for sequence, row in zip(sequences, ids, strict=True):
            if sequence.embeds is not None:
                parts.append(sequence.embeds.to(device, self.model.dtype))
            parts.append(wte(torch.tensor(row, dtype=torch.long, device=device)))
        return inputs | {"inputs_embeds": torch.cat(parts)[None]}

    def _checked(self, sequence: Sequence, ids: list[int]) -> TorchSequence:
        """Give a sequence back, after checking that it can take the ids."""
        if not isinstance(sequence, TorchSequence) or sequence.engine is not self:
            raise EngineError("a sequence of another engine was given; use new_sequence() of this one")
        sequence.check_alive()
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


def _numpy(tensor: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = tensor.float().cpu().numpy()
    return array
