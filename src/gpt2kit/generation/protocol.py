"""What the generation loop needs of an engine: token ids in, logits out.

An engine owns the weights; a sequence owns the cached keys and values of one text. A batch is a list of
(sequence, new token ids): rows have any lengths, there is no padding and no attention mask.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

from gpt2kit.config import GPT2Config

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from gpt2kit.generation.options import Options
    from gpt2kit.generation.strategies.options import Guesses

# In quotes, since a native generation needs no numpy.
Array: TypeAlias = "npt.NDArray[np.float32]"
Logits = Literal["last", "all"]
# What tokens are: given, as a prompt's, or generated, or guessed to be. An engine may compute the two differently.
Phase = Literal["prefill", "decode"]


class Sequence(Protocol):
    """The cached keys and values of one text."""

    @property
    def length(self) -> int:
        """Number of tokens in the cache."""

    def fork(self) -> Sequence:
        """Return a copy that continues on its own; the original is left as it is."""

    def truncate(self, length: int) -> None:
        """Forget all tokens from position `length` on; `length` must not exceed the present one."""

    def free(self) -> None:
        """Give the cache's memory back; the sequence may not be used afterwards."""


def phases(phase: Phase | Items[Phase], num_rows: int) -> list[Phase]:
    """Return the phase of each row."""
    return [phase] * num_rows if isinstance(phase, str) else list(phase)


@dataclass
class Output:
    """What one row of a forward pass gives.

    logits: float32, (V,) when "last" was asked, (T, V) for "all", None for None.
    hidden: float32 (T, C), after the final layer norm, or None when it was not asked.
    hidden_states: float32 (n_layer + 1, T, C), the embeddings, then what each block gave, the last one after
        the final layer norm; or None.
    attentions: float32 (n_layer, H, T, S), the weights over all S cached positions; or None.
    """

    logits: Array | None = None
    hidden: Array | None = None
    hidden_states: Array | None = None
    attentions: Array | None = None


class Engine(Protocol):
    """Runs a GPT-2 over ragged batches of token ids."""

    @property
    def config(self) -> GPT2Config:
        """The shape of the model; `vocab_size` and `n_positions` are what the loop reads."""

    def new_sequence(self) -> Sequence:
        """Return an empty sequence."""

    def forward(
        self,
        work: list[tuple[Sequence, list[int]]],
        *,
        logits: Logits | None = "last",
        hidden: bool = False,
        hidden_states: bool = False,
        attentions: bool = False,
        phase: Phase | Items[Phase] = "prefill",
    ) -> list[Output]:
        """Append each row's new ids to its sequence and return one Output a row, in order.

        Every list of ids has at least one id; a sequence occurs once in a call. phase: of all rows, or of each.
        """

    def head(self, states: Array, *, phase: Phase = "prefill") -> Array:
        """Return logits (N, V) for hidden states (N, C), which are multiplied by the head as they are."""

    def first_layers(self, n_layer: int) -> Engine:
        """Return an engine of the first n_layer blocks, the last norm and the head, over the same weights."""


@dataclass(frozen=True)
class NewTokens:
    """What a row has grown by, how many tokens were guessed for it, and how many of those were right."""

    ids: list[int]
    num_guessed: int = 0
    num_right: int = 0


@runtime_checkable
class NativeLoop(Protocol):
    """An engine that can also run the whole loop itself when only standard options are used."""

    def can_guess_with(self, assistant: Engine) -> bool:
        """Whether the loop can guess ahead with another engine, of the same vocabulary."""

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
        """Return what every row has grown by, prompt by prompt, options.num_return_sequences rows each.

        prompts: checked ids, none empty. seeds: one a prompt. A row ends with an id of options.eos_token_ids
        (included), after options.max_new_tokens[prompt] ids, or when on_token(prompt_index, row, token_id),
        called once for each new id as it is chosen, returns True. What on_token raises ends the call and is
        raised from it. stop_strings and max_time are not the engine's affair: on_token does them. At most
        max_rows rows run at once. guesses change no id: they are made when they pay.
        """
