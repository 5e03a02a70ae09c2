"""What is watched while a row grows: its text and stop strings, the clock, the caller; and why it ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from gpt2kit.generation.options import Options
from gpt2kit.generation.text import RowText

# (prompt_index, row, token_id) -> True to end this row. `row` counts the num_return_sequences of one prompt.
OnToken = Callable[[int, int, int], "bool | None"]
# (prompt_index, row, text that is new) -> True to end this row. Called for every token, also when no text is
# new.
OnText = Callable[[int, int, str], "bool | None"]


@dataclass
class Generated:
    """One generated row.

    ids: the new token ids; the end token is there when it was generated.
    finish_reason: "stop" (end token, stop string or stopping criterion), "length", "time" (max_time), or
        "cancelled" (a callback said so).
    text: the new text without special tokens, when a tokenizer was given; stop string kept or trimmed as
        asked.
    stop_string: the stop string that ended the row, if one did.
    """

    prompt_index: int
    row: int
    seed: int
    ids: list[int]
    finish_reason: str
    text: str | None = None
    stop_string: str | None = None


class RowWatch:
    """Watches one row token by token and decides whether something other than the loop ends it."""

    def __init__(
        self,
        prompt_index: int,
        row: int,
        text: RowText | None,
        deadline: float | None,
        on_token: OnToken | None,
        on_text: OnText | None,
    ) -> None:
        self._prompt_index = prompt_index
        self._row = row
        self._deadline = deadline
        self._on_token = on_token
        self._on_text = on_text
        self._is_late = False
        self._is_cancelled = False
        self.text = text

    def observe(self, token_id: int) -> bool:
        """Take the token that was just chosen and return True when the row ends with it."""
        piece = self.text.push(token_id) if self.text is not None else ""
        if self._on_token is not None and self._on_token(self._prompt_index, self._row, token_id):
            self._is_cancelled = True
        if self._on_text is not None and self._on_text(self._prompt_index, self._row, piece):
            self._is_cancelled = True
        self._is_late = self._deadline is not None and time.monotonic() >= self._deadline
        has_stop_string = self.text is not None and self.text.stop_string is not None
        return has_stop_string or self._is_cancelled or self._is_late

    def finish(self, ids: list[int], seed: int, options: Options) -> Generated:
        """Return the finished row with the reason why it ended, and hand out the last text."""
        text = None
        stop_string = None
        if self.text is not None:
            piece = self.text.finish()
            if piece and self._on_text is not None:
                self._on_text(self._prompt_index, self._row, piece)
            text, stop_string = self.text.text, self.text.stop_string
        if ids[-1] in options.eos_token_ids or stop_string is not None:
            reason = "stop"
        elif self._is_cancelled:
            reason = "cancelled"
        elif len(ids) >= options.max_new_tokens[self._prompt_index]:
            reason = "length"
        else:
            reason = "time" if self._is_late else "stop"
        return Generated(self._prompt_index, self._row, seed, ids, reason, text, stop_string)
