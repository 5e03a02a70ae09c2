"""The tokens beside the base vocabulary: added ones, and those with a name or a special role."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any

from gpt2kit._native import Bpe
from gpt2kit.errors import TokenizerError
from gpt2kit.tokenizer.added_token import AddedToken, as_added_token
from gpt2kit.tokenizer.vocabulary import make_vocabulary

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MAX_TOKEN_ID = (1 << 22) - 1  # as in the core


class TokenTable:
    """Added tokens by id on top of a vocabulary, and which of them are bos_token and so on.

    A token that the vocabulary has keeps its id there; others get the ids after the last one.
    """

    def __init__(self, base: Bpe) -> None:
        self.base = base
        self.named: dict[str, AddedToken] = {}
        self.extra: list[AddedToken] = []
        self._by_id: dict[int, AddedToken] = {}
        self._ids: dict[str, int] = {}
        self._bpe: Bpe | None = None

    @property
    def bpe(self) -> Bpe:
        """The core that looks for the added tokens; bytes that it has no token for become unk_token."""
        if self._bpe is None:
            tokens = [
                (t.content, id, t.single_word, t.lstrip, t.rstrip, t.special, bool(t.normalized))
                for id, t in self._by_id.items()
            ]
            self._bpe = self.base.with_added_tokens(tokens, self.named_id("unk_token"))
        return self._bpe

    def find(self, token: str) -> int | None:
        """Id of a token, or None."""
        id = self._ids.get(token)
        return self.base.token_to_id(token) if id is None else id

    def find_or_unknown(self, token: str) -> int | None:
        """Id of a token; that of unk_token if there is no such token; None without that."""
        id = self.find(token)
        unknown = self.named.get("unk_token")
        return self.find(unknown.content) if id is None and unknown is not None else id

    def token(self, id: int) -> str | None:
        """Spelling of an id, or None."""
        added = self._by_id.get(id)
        return self.base.id_to_token(id) if added is None else added.content

    def add(self, tokens: Iterable[AddedToken]) -> int:
        """Add tokens, or change the flags of those that are there; returns how many were new or changed."""
        num_added = 0
        for token in tokens:
            if not token.content or token in self._by_id.values():
                continue
            known = self.find(token.content)
            next_id = max(self.base.max_id, max(self._by_id, default=-1)) + 1
            self.place(next_id if known is None else known, token)
            num_added += 1
        return num_added

    def place(self, id: int, token: AddedToken) -> None:
        """Put a token at an id, as a file says. Raises TokenizerError if the id or the token is taken."""
        if not 0 <= id <= MAX_TOKEN_ID:
            raise TokenizerError(
                f"the added token {token.content!r} has id {id}; ids are from 0 to {MAX_TOKEN_ID}"
            )
        owner, known = self.token(id), self.find(token.content)
        if owner not in (None, token.content):
            raise TokenizerError(
                f"the added token {token.content!r} has id {id}, which is the token {owner!r}"
            )
        if known not in (None, id):
            raise TokenizerError(
                f"the added token {token.content!r} has id {id}, but the vocabulary has it at {known}"
            )
        self._by_id[id] = token
        self._ids[token.content] = id
        self._bpe = None

    def added(self) -> dict[int, AddedToken]:
        """Added tokens by rising id, in a new dict."""
        return dict(sorted(self._by_id.items()))

    def vocab(self) -> dict[str, int]:
        """All tokens to their ids, in a new dict."""
        return self.base.vocab() | self._ids

    def size(self) -> int:
        """How many tokens there are in all."""
        return self.base.size + sum(self.base.id_to_token(id) is None for id in self._by_id)

    def __getstate__(self) -> dict[str, Any]:
        """For pickle, which data loaders use to hand a tokenizer to their processes."""
        base = (self.base.vocab(), self.base.merges(), self.base.ignore_merges)
        return self.__dict__ | {"base": base, "_bpe": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vocab, merges, ignore_merges = state["base"]
        file = make_vocabulary(vocab, merges, ignore_merges=ignore_merges)
        self.__dict__.update(state | {"base": file.bpe})

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenTable:
        result = TokenTable(self.base)  # immutable, so it is shared
        result.__dict__.update(
            {key: value if key in ("base", "_bpe") else copy(value) for key, value in self.__dict__.items()}
        )
        return result

    # ---- roles

    def set_named(self, name: str, value: Any) -> None:
        """Set bos_token or the like to a str, which is special, an AddedToken or None."""
        if value is None:
            self.named.pop(name, None)
        else:
            try:
                self.named[name] = as_added_token(value, special=True)
            except TokenizerError:
                raise TokenizerError(f"{name} must be a str, an AddedToken or None, not {value!r}") from None
        self._bpe = None

    def named_id(self, name: str) -> int | None:
        """Id of bos_token or the like; None if it is not set."""
        token = self.named.get(name)
        return None if token is None else self.find_or_unknown(token.content)

    def set_extra(self, tokens: Any) -> None:
        """Set the special tokens that have no name; a dict gives them names."""
        if isinstance(tokens, Mapping):
            for name, value in tokens.items():
                self.set_named(name, value)
        elif tokens is None or isinstance(tokens, (list, tuple)):
            self.extra = [as_added_token(token, special=True) for token in tokens or ()]
        else:
            raise TokenizerError(
                f"extra_special_tokens must be a list of tokens or a dict of named ones, not {tokens!r}"
            )

    def add_missing(self) -> None:
        """Give every named and extra token an id, and take over the flags of those that a file has placed."""
        for name, token in self.named.items():
            self.named[name] = self._by_id.get(self._ids.get(token.content, -1), token)
        self.add(t for t in (*self.named.values(), *self.extra) if t.content not in self._ids)

    def add_special(self, tokens: Mapping[str, Any], replace_extra: bool) -> int:
        """Set named and extra special tokens and give them ids; returns how many were new or changed."""
        new: list[AddedToken] = []
        for key, value in tokens.items():
            if key in ("extra_special_tokens", "additional_special_tokens"):
                if not isinstance(value, (list, tuple)):
                    raise TokenizerError(f"{key} must be a list of tokens, not {value!r}")
                kept = [] if replace_extra else self.extra
                extra = [as_added_token(token, special=True) for token in value]
                self.extra = kept + [t for t in extra if t.content not in {k.content for k in kept}]
                new += extra
            elif key in NAMES or key in self.named:
                self.set_named(key, value)
                new.append(self.named[key])
            else:
                raise TokenizerError(
                    f"{key!r} is not a special token; there are {[*NAMES, 'extra_special_tokens']}"
                )
        num_added = self.add(as_special(new))
        self._bpe = None
        return num_added

    def named_strings(self) -> dict[str, str]:
        """The named tokens that are set, in the usual order."""
        order = [*NAMES, *(name for name in self.named if name not in NAMES)]
        return {name: self.named[name].content for name in order if name in self.named}

    def special_strings(self) -> list[str]:
        """Named and extra special tokens, each once."""
        return list(dict.fromkeys([*self.named_strings().values(), *(token.content for token in self.extra)]))


def as_special(tokens: Sequence[AddedToken]) -> list[AddedToken]:
    """The same tokens with special set."""
    return [AddedToken(**(token.as_dict() | {"special": True})) for token in tokens]


def named_token_property(name: str) -> property:
    """Make the property `bos_token` or the like of a class that has a TokenTable as `tokens`."""

    def get(self: Any) -> str | None:
        token = self.tokens.named.get(name)
        return None if token is None else str(token)

    def set_token(self: Any, value: Any) -> None:
        self.tokens.set_named(name, value)
        self.update_template()

    return property(get, set_token, doc=f"The {name} or None. It may be set to a str, an AddedToken or None.")


def named_id_property(name: str) -> property:
    """Make the property `bos_token_id` or the like."""

    def get(self: Any) -> int | None:
        id: int | None = self.tokens.named_id(name)
        return id

    def set_id(self: Any, value: int | None) -> None:
        token = None if value is None else self.tokens.token(value)
        if value is not None and token is None:
            raise TokenizerError(f"{name}_id is {value}, which is not an id of this tokenizer")
        setattr(self, name, token)

    return property(get, set_id, doc=f"Id of the {name} or None. It may be set to the id of any token.")
