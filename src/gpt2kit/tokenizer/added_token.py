"""Tokens that are found in the text before it is split: special tokens and those that users add."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpt2kit.errors import TokenizerError

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass
class AddedToken:
    """A token with its behaviour in text.

    single_word: only where neither neighbour is a word character. lstrip, rstrip: takes the white space on
    that side.
    special: left out by decode(skip_special_tokens=True) and cut up by split_special_tokens=True.
    normalized: looked for after the others, in what they leave; by default it is the opposite of special.
    """

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool | None = None
    special: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.content, str):
            raise TokenizerError(f"an added token's content must be a str, not {type(self.content).__name__}")
        if self.normalized is None:
            self.normalized = not self.special
        for flag in _FLAGS:
            if not isinstance(getattr(self, flag), bool):
                raise TokenizerError(
                    f"{flag} of the added token {self.content!r} is {getattr(self, flag)!r}, not true or "
                    "false"
                )

    def __str__(self) -> str:
        return self.content

    def as_dict(self) -> dict[str, Any]:
        """Fields by name, in the order in which Transformers writes them."""
        return {"content": self.content} | {flag: getattr(self, flag) for flag in _FLAGS}


def as_added_token(value: Any, *, special: bool = False) -> AddedToken:
    """Turn a str, an AddedToken (also of `tokenizers`) or its dict from a JSON file into an AddedToken.

    special is for a str; the other forms say it themselves. Raises TokenizerError for anything else.
    """
    if isinstance(value, AddedToken):
        return value
    if isinstance(value, str):
        return AddedToken(value, special=special)
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        return AddedToken(
            value["content"], **{flag: value[flag] for flag in _FLAGS if value.get(flag) is not None}
        )
    if isinstance(getattr(value, "content", None), str):
        return AddedToken(value.content, **{flag: getattr(value, flag) for flag in _FLAGS})
    raise TokenizerError(f"a token must be a str or an AddedToken, not {value!r}")
