"""What is watched while a row grows: its text and stop strings, the clock, the caller; and why it ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gpt2kit.config import GenerationConfig
from gpt2kit.generation.options import Options
from gpt2kit.generation.protocol import Array, Output, Sequence
from gpt2kit.generation.text import RowText

# (prompt_index, row, token_id) -> True to end this row. `row` counts the num_return_sequences of one prompt.
OnToken = Callable[[int, int, int], "bool | None"]
# (prompt_index, row, text that is new) -> True to end this row. Called for every token, also when no text is
# new.
OnText = Callable[[int, int, str], "bool | None"]


@dataclass(frozen=True)
class Wanted:
    """What is kept of every step besides the ids: GenerationConfig's output_* fields, and the cache."""

    scores: bool = False
    logits: bool = False
    hidden_states: bool = False
    attentions: bool = False
    sequence: bool = False

    @classmethod
    def of(cls, config: GenerationConfig, *, sequence: bool = False) -> Wanted:
        """Read the output_* fields of a configuration."""
        return cls(
            scores=bool(config.output_scores),
            logits=bool(config.output_logits),
            hidden_states=bool(config.output_hidden_states),
            attentions=bool(config.output_attentions),
            sequence=sequence,
        )

    def __bool__(self) -> bool:
        return self != Wanted()

    @property
    def of_forward(self) -> dict[str, bool]:
        """The arguments of Engine.forward that ask for what only the engine knows."""
        asked = {"hidden_states": self.hidden_states, "attentions": self.attentions}
        return {name: True for name, is_asked in asked.items() if is_asked}


@dataclass
class Steps:
    """What was kept of every step, one entry for each forward pass; lists that nobody wanted stay empty.

    scores: float32 (V,), what the token was chosen from, after all processors.
    logits: float32 (V,), before them.
    hidden_states: float32 (n_layer + 1, T, C). attentions: float32 (n_layer, H, T, S). T is the prompt's
        length at the first step and 1 after it.

    A strategy with beams keeps those of all beams of a prompt together, with one more axis of length num_beams
    in front of each, in one Steps that all rows of the prompt share.
    """

    scores: list[Array] = field(default_factory=list)
    logits: list[Array] = field(default_factory=list)
    hidden_states: list[Array] = field(default_factory=list)
    attentions: list[Array] = field(default_factory=list)

    def add(self, wanted: Wanted, output: Output, scores: Array) -> None:
        """Keep what is wanted of one row's step; `scores` are the processed ones."""
        for is_wanted, kept, value in (
            (wanted.scores, self.scores, scores),
            (wanted.logits, self.logits, output.logits),
            (wanted.hidden_states, self.hidden_states, output.hidden_states),
            (wanted.attentions, self.attentions, output.attentions),
        ):
            if is_wanted:
                assert value is not None
                kept.append(value)


@dataclass
class Generated:
    """One generated row.

    ids: the new token ids; the end token is there when it was generated.
    finish_reason: "stop" (end token, stop string or stopping criterion), "length", "time" (max_time), or
        "cancelled" (a callback said so).
    text: the new text without special tokens, when a tokenizer was given; stop string kept or trimmed as
        asked.
    stop_string: the stop string that ended the row, if one did.
    steps: what was kept of each step, when something was wanted.
    sequence: the engine's sequence, with everything cached but the last id, when it was wanted; the caller
        frees it.
    prompt_ids: the prompt as token_healing left it, when it was asked for; its new text is in `text` too.
    num_guessed, num_right: how many tokens speculative decoding guessed, and how many of those are in ids; each
        of them saved a forward pass.
    score, beam_indices: of a strategy with beams, the row's final score, and for each new id the beam (0 to
        num_beams - 1, of this prompt) that it was appended to; None when a callback ended the row early.
    """

    prompt_index: int
    row: int
    seed: int
    num_prompt_tokens: int
    ids: list[int]
    finish_reason: str
    text: str | None = None
    stop_string: str | None = None
    steps: Steps | None = None
    sequence: Sequence | None = None
    prompt_ids: list[int] | None = None
    score: float | None = None
    beam_indices: list[int] | None = None
    num_guessed: int = 0
    num_right: int = 0


class RowWatch:
    """Watches one row token by token and says when something other than the loop's own rules ends it."""

    def __init__(
        self,
        prompt_index: int,
        row: int,
        seed: int,
        num_prompt_tokens: int,
        options: Options,
        *,
        healed_prompt: list[int] | None = None,
        text: RowText | None,
        deadline: float | None,
        on_token: OnToken | None,
        on_text: OnText | None,
    ) -> None:
        self._prompt_index = prompt_index
        self._row = row
        self._seed = seed
        self._num_prompt_tokens = num_prompt_tokens
        self._options = options
        self._healed_prompt = healed_prompt
        self._text = text
        self._deadline = deadline
        self._on_token = on_token
        self._on_text = on_text
        self._is_late = False
        self._is_cancelled = False

    def observe(self, token_id: int) -> bool:
        """Take the token that was just chosen and return True when the row ends with it."""
        piece = self._text.push(token_id) if self._text is not None else ""
        if self._on_token is not None and self._on_token(self._prompt_index, self._row, token_id):
            self._is_cancelled = True
        if self._on_text is not None and self._on_text(self._prompt_index, self._row, piece):
            self._is_cancelled = True
        self._is_late = self._deadline is not None and time.monotonic() >= self._deadline
        has_stop_string = self._text is not None and self._text.stop_string is not None
        return has_stop_string or self._is_cancelled or self._is_late

    def finish(self, ids: list[int], *, was_observed: bool, is_late: bool = False) -> Generated:
        """Return the finished row with the reason why it ended, and hand out the last text.

        was_observed: observe saw the ids as they came; otherwise the text is made of them now.
        is_late: the row ended because its time was over, and observe could not know.
        """
        self._is_late |= is_late
        text = None
        stop_string = None
        if self._text is not None:
            if not was_observed:
                for token_id in ids:
                    self._text.push(token_id)
            piece = self._text.finish()
            if piece and self._on_text is not None:
                self._on_text(self._prompt_index, self._row, piece)
            text, stop_string = self._text.text, self._text.stop_string
        return Generated(
            prompt_index=self._prompt_index,
            row=self._row,
            seed=self._seed,
            num_prompt_tokens=self._num_prompt_tokens,
            ids=ids,
            finish_reason=self._finish_reason(ids, stop_string),
            text=text,
            stop_string=stop_string,
            prompt_ids=self._healed_prompt,
        )

    def _finish_reason(self, ids: list[int], stop_string: str | None) -> str:
        if not ids or ids[-1] in self._options.eos_token_ids or stop_string is not None:
            return "stop"
        if self._is_cancelled:
            return "cancelled"
        if len(ids) >= self._options.max_new_tokens[self._prompt_index]:
            return "length"
        return "time" if self._is_late else "stop"
