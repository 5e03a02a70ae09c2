"""GPT2Tokenizer: text to token ids and back, with the call signature of Transformers."""

from __future__ import annotations

import codecs
import logging
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from os import PathLike
from typing import TYPE_CHECKING, Any

from gpt2kit._native import Bpe
from gpt2kit.errors import TokenizerError
from gpt2kit.tokenizer.added_token import AddedToken, as_added_token
from gpt2kit.tokenizer.batch_encoding import BatchEncoding
from gpt2kit.tokenizer.call_arguments import CallOptions
from gpt2kit.tokenizer.calling import encode_batch, num_threads
from gpt2kit.tokenizer.chat import apply_chat_template, get_chat_template, parse_response
from gpt2kit.tokenizer.decoding import batch_decode, convert_tokens_to_string, decode, decode_bytes
from gpt2kit.tokenizer.loading import load_tokenizer
from gpt2kit.tokenizer.padding import pad
from gpt2kit.tokenizer.saving import (
    push_to_hub,
    save_chat_templates,
    save_pretrained,
    save_vocabulary,
    to_backend,
)
from gpt2kit.tokenizer.template import SpecialSlot, Template, bos_eos_template
from gpt2kit.tokenizer.token_table import TokenTable, as_special, named_id_property, named_token_property
from gpt2kit.tokenizer.training import train_new_from_iterator
from gpt2kit.tokenizer.vocabulary import VocabularyFile, load_vocabulary

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

logger = logging.getLogger("gpt2kit")

END_OF_TEXT = "<|endoftext|>"
NO_MAX_LENGTH = int(1e30)  # what Transformers stores when a model has no limit


class GPT2Tokenizer:
    """Byte-level BPE as GPT-2 has it.

    vocab and merges are paths (vocab.json and merges.txt) or the objects themselves; tokenizer_file is a
    tokenizer.json; vocab alone may be a file of tiktoken ranks. from_pretrained is the usual way in.

    errors: what decode does with bytes that are not UTF-8, as in bytes.decode.
    add_prefix_space: put a space before text that does not start with one, so that its first word is like any
    other.
    add_bos_token, add_eos_token: put those tokens around each sequence.
    None for one of these means what the file says.
    """

    vocab_files_names: Mapping[str, str] = {"vocab_file": "vocab.json", "merges_file": "merges.txt"}
    is_fast = True

    # Methods that are functions of modules of their own.
    from_pretrained = classmethod(load_tokenizer)
    save_pretrained = save_pretrained
    push_to_hub = push_to_hub
    save_vocabulary = save_vocabulary
    save_chat_templates = save_chat_templates
    train_new_from_iterator = train_new_from_iterator
    decode = decode
    batch_decode = batch_decode
    decode_bytes = decode_bytes
    convert_tokens_to_string = convert_tokens_to_string
    pad = pad
    apply_chat_template = apply_chat_template
    get_chat_template = get_chat_template
    parse_response = parse_response

    bos_token = named_token_property("bos_token")
    eos_token = named_token_property("eos_token")
    unk_token = named_token_property("unk_token")
    sep_token = named_token_property("sep_token")
    pad_token = named_token_property("pad_token")
    cls_token = named_token_property("cls_token")
    mask_token = named_token_property("mask_token")
    bos_token_id = named_id_property("bos_token")
    eos_token_id = named_id_property("eos_token")
    unk_token_id = named_id_property("unk_token")
    sep_token_id = named_id_property("sep_token")
    pad_token_id = named_id_property("pad_token")
    cls_token_id = named_id_property("cls_token")
    mask_token_id = named_id_property("mask_token")

    def __init__(
        self,
        vocab: str | PathLike[str] | Mapping[str, int] | None = None,
        merges: str | PathLike[str] | Sequence[str | Sequence[str]] | None = None,
        errors: str = "replace",
        unk_token: str | AddedToken | None = END_OF_TEXT,
        bos_token: str | AddedToken | None = END_OF_TEXT,
        eos_token: str | AddedToken | None = END_OF_TEXT,
        pad_token: str | AddedToken | None = None,
        add_prefix_space: bool | None = None,
        add_bos_token: bool | None = None,
        *,
        add_eos_token: bool | None = None,
        vocab_file: str | PathLike[str] | None = None,
        merges_file: str | PathLike[str] | None = None,
        tokenizer_file: str | PathLike[str] | None = None,
        sep_token: str | AddedToken | None = None,
        cls_token: str | AddedToken | None = None,
        mask_token: str | AddedToken | None = None,
        extra_special_tokens: Sequence[str | AddedToken] | Mapping[str, str | AddedToken] | None = None,
        added_tokens_decoder: Mapping[int, str | AddedToken] | None = None,
        model_max_length: int | None = None,
        padding_side: str | None = None,
        truncation_side: str | None = None,
        model_input_names: Sequence[str] | None = None,
        split_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
        clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output: bool = False,
        chat_template: str | Mapping[str, str] | None = None,
        name_or_path: str = "",
    ) -> None:
        file = load_vocabulary(
            vocab_file if vocab is None else vocab, merges_file if merges is None else merges, tokenizer_file
        )
        try:
            codecs.lookup_error(errors)
        except LookupError:
            raise TokenizerError(
                f"errors is {errors!r}, which is no error handler; bytes.decode knows 'replace', "
                "'strict', 'ignore' "
                "and others"
            ) from None
        self.errors = errors
        self.name_or_path = name_or_path
        self.model_max_length = NO_MAX_LENGTH if model_max_length is None else model_max_length
        self.padding_side = _side("padding_side", padding_side or file.options.get("padding_side", "right"))
        self.truncation_side = _side(
            "truncation_side", truncation_side or file.options.get("truncation_side", "right")
        )
        self.model_input_names = list(model_input_names or ("input_ids", "attention_mask"))
        self.split_special_tokens = split_special_tokens
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        self.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = (
            clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output
        )
        self.chat_template = chat_template
        self.add_prefix_space = (
            bool(file.add_prefix_space) if add_prefix_space is None else bool(add_prefix_space)
        )
        self.pad_token_type_id = 0
        self.config_extras: dict[str, Any] = {}  # keys of a tokenizer_config.json that mean nothing here
        self._has_warned: set[str] = set()

        self.tokens = TokenTable(file.bpe)
        self.tokens.set_named("bos_token", bos_token)
        self.tokens.set_named("eos_token", eos_token)
        self.tokens.set_named("unk_token", unk_token)
        self.tokens.set_named("sep_token", sep_token)
        self.tokens.set_named("pad_token", file.options.get("pad_token") if pad_token is None else pad_token)
        self.tokens.set_named("cls_token", cls_token)
        self.tokens.set_named("mask_token", mask_token)
        self.tokens.set_extra(extra_special_tokens)
        placed = file.added_tokens | {
            id: as_added_token(token) for id, token in (added_tokens_decoder or {}).items()
        }
        for id, token in sorted(placed.items()):
            self.tokens.place(id, token)
        self.tokens.add_missing()

        self._template_flags: tuple[bool, bool] | None = (
            None  # (bos, eos), or None for the file's own template
        )
        self.template = self._first_template(file, add_bos_token, add_eos_token)

    # ---- vocabulary

    @property
    def bpe(self) -> Bpe:
        """The C++ core."""
        return self.tokens.bpe

    @property
    def vocab_size(self) -> int:
        """Number of tokens without the added ones."""
        return self.tokens.base.size

    def __len__(self) -> int:
        """Number of tokens with the added ones."""
        return self.tokens.size()

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, padding_side={self.padding_side!r}, "
            f"truncation_side={self.truncation_side!r}, special_tokens={self.special_tokens_map}, "
            f"added_tokens_decoder={self.added_tokens_decoder})"
        )

    @property
    def backend_tokenizer(self) -> Any:
        """A tokenizers.Tokenizer with the same behaviour, built anew at each use."""
        return to_backend(self)

    def get_vocab(self) -> dict[str, int]:
        """All tokens to their ids, in a new dict."""
        return self.tokens.vocab()

    @property
    def vocab(self) -> dict[str, int]:
        """As get_vocab()."""
        return self.get_vocab()

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Added tokens by rising id."""
        return self.tokens.added()

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Added tokens to their ids, by rising id."""
        return {token.content: id for id, token in self.tokens.added().items()}

    def get_added_vocab(self) -> dict[str, int]:
        """As added_tokens_encoder."""
        return self.added_tokens_encoder

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """Id of a token, or list of ids; unknown tokens have the id of unk_token, or None without one."""
        if isinstance(tokens, str):
            return self.tokens.find_or_unknown(tokens)
        return [self.tokens.find_or_unknown(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Token of an id, or list of tokens; None for an id that there is not."""
        if isinstance(ids, Integral):
            return self.tokens.token(int(ids))
        skip = set(self.all_special_ids) if skip_special_tokens else set()
        return [self.tokens.token(int(id)) for id in ids if int(id) not in skip]

    def add_tokens(
        self, new_tokens: str | AddedToken | Sequence[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Add tokens that texts are searched for before they are split; returns how many are new or changed.

        When ids are added the model's embedding must be resized to len(tokenizer).
        """
        given = new_tokens if isinstance(new_tokens, (list, tuple)) else [new_tokens]
        tokens = [as_added_token(token, special=special_tokens) for token in given]
        return self.tokens.add(as_special(tokens) if special_tokens else tokens)

    # ---- special tokens

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_extra_special_tokens: bool = True
    ) -> int:
        """Set named tokens and "extra_special_tokens"; returns how many are new or changed."""
        num_added = self.tokens.add_special(special_tokens_dict, replace_extra_special_tokens)
        self.update_template()
        return num_added

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The named tokens that are set."""
        return self.tokens.named_strings()

    @property
    def extra_special_tokens(self) -> list[str]:
        """Special tokens without a name."""
        return [token.content for token in self.tokens.extra]

    @extra_special_tokens.setter
    def extra_special_tokens(self, tokens: Sequence[str | AddedToken] | None) -> None:
        self.tokens.set_extra(tokens)

    @property
    def extra_special_tokens_ids(self) -> list[int]:
        """Ids of extra_special_tokens."""
        ids: list[int] = self.convert_tokens_to_ids(self.extra_special_tokens)
        return ids

    @property
    def all_special_tokens(self) -> list[str]:
        """Named and extra special tokens, each once."""
        return self.tokens.special_strings()

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of all_special_tokens."""
        ids: list[int] = self.convert_tokens_to_ids(self.all_special_tokens)
        return ids

    def _first_template(self, file: VocabularyFile, add_bos: bool | None, add_eos: bool | None) -> Template:
        if add_bos is not None or add_eos is not None or file.template is None:
            self._template_flags = (bool(add_bos), bool(add_eos))
            return self._make_template(*self._template_flags)
        for part in (*file.template.single, *file.template.pair):
            if isinstance(part, SpecialSlot) and self.tokens.token(part.id) != part.token:
                raise TokenizerError(
                    f"the post_processor puts {part.token!r} with id {part.id} around texts, but that id is "
                    f"{self.tokens.token(part.id)!r}"
                )
        return file.template

    def _make_template(self, add_bos: bool, add_eos: bool) -> Template:
        bos = (self.bos_token, self.bos_token_id) if add_bos and self.bos_token is not None else None
        eos = (self.eos_token, self.eos_token_id) if add_eos and self.eos_token is not None else None
        return bos_eos_template(bos, eos)

    def update_template(self) -> None:
        """Bring the template up to date after bos_token or eos_token has changed."""
        if self._template_flags is not None:
            self.template = self._make_template(*self._template_flags)

    def _has_special_slot(self, token: str | None, at: int) -> bool:
        slot = self.template.single[at]
        return isinstance(slot, SpecialSlot) and slot.token == token

    @property
    def add_bos_token(self) -> bool:
        """Whether BOS is put before each sequence. Setting it replaces the template of a tokenizer.json."""
        return self._has_special_slot(self.bos_token, 0)

    @add_bos_token.setter
    def add_bos_token(self, value: bool) -> None:
        self._template_flags = (bool(value), self.add_eos_token)
        self.update_template()

    @property
    def add_eos_token(self) -> bool:
        """Whether EOS is put after each sequence. Setting it replaces the template of a tokenizer.json."""
        return self._has_special_slot(self.eos_token, -1)

    @add_eos_token.setter
    def add_eos_token(self, value: bool) -> None:
        self._template_flags = (self.add_bos_token, bool(value))
        self.update_template()

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens are put around one sequence, or around a pair."""
        return self.template.num_special(pair)

    @property
    def max_len_single_sentence(self) -> int:
        """How many tokens of text fit into model_max_length."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=False)

    @property
    def max_len_sentences_pair(self) -> int:
        """How many tokens of a pair fit into model_max_length."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def get_special_tokens_mask(
        self,
        token_ids_0: Sequence[int],
        token_ids_1: Sequence[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """Tell special tokens (1) from text (0).

        With already_has_special_tokens the ids are looked at; without, the mask is that of the sequences with
        the special tokens put around them.
        """
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise TokenizerError(
                    "token_ids_1 must be None when the ids already have their special tokens"
                )
            special = set(self.all_special_ids)
            return [int(int(id) in special) for id in token_ids_0]
        sizes = len(token_ids_0), len(token_ids_1 or ())
        mask: list[int] = []
        for part in self.template.parts(token_ids_1 is not None):
            mask += [1] if isinstance(part, SpecialSlot) else [0] * sizes[part.sequence]
        return mask

    # ---- encoding

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        add_special_tokens: bool = True,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        *,
        split_special_tokens: bool | None = None,
        add_prefix_space: bool | None = None,
        max_target_length: int | None = None,
    ) -> BatchEncoding:
        """Encode one sequence, a pair, or a batch of either.

        text: a str; with is_split_into_words a list of str, each of which gets a space before it. A list of
        these is a batch. text_target is encoded too; if text is given as well its ids are the `labels`.
        padding: False, True or "longest", "max_length". truncation: False, True or "longest_first",
        "only_first", "only_second"; max_length alone asks for truncation. stride: overlap of the overflowing
        parts, in tokens.
        return_tensors: None (lists), "np", "pt". tokenizer_kwargs: more of these options, which win.
        """
        given = {name: value for name, value in locals().items() if name in CallOptions.__dataclass_fields__}
        unknown = sorted(set(tokenizer_kwargs or ()) - set(given))
        if unknown:
            raise TokenizerError(f"tokenizer_kwargs has {unknown}; a tokenizer takes {sorted(given)}")
        options = CallOptions(**(given | dict(tokenizer_kwargs or {})))
        if text is None and text_target is None:
            raise TokenizerError("You need to specify either `text` or `text_target`.")
        result = None if text is None else encode_batch(self, text, text_pair, options)
        if text_target is None:
            assert result is not None
            return result
        if max_target_length is not None:
            options.max_length = max_target_length
        target = encode_batch(self, text_target, text_pair_target, options)
        if result is None:
            return target
        result["labels"] = target["input_ids"]
        return result

    def encode(
        self,
        text: Any,
        text_pair: Any = None,
        add_special_tokens: bool = True,
        **options: Any,
    ) -> Any:
        """Token ids of a text as a list (or tensors, with return_tensors). Takes the options of a call."""
        if isinstance(text, str) and text_pair is None and not options:
            num_special = self.template.num_special(False) if add_special_tokens else 0
            if num_special == 0:
                ids = self.bpe.encode(text, bool(self.split_special_tokens), bool(self.add_prefix_space))
                self.warn_if_too_long(len(ids))
                return ids
        return self(text, text_pair, add_special_tokens=add_special_tokens, **options)["input_ids"]

    def encode_to_arrays(
        self, texts: Sequence[str], *, threads: int | None = None
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Encode many texts, without special tokens around them, to one array: the fastest way.

        Returns (ids, row_splits): text i has the ids[row_splits[i]:row_splits[i + 1]].
        """
        return self.bpe.encode_arrays(
            texts,
            bool(self.split_special_tokens),
            bool(self.add_prefix_space),
            num_threads() if threads is None else threads,
        )

    def encode_bytes(self, data: bytes) -> list[int]:
        """Token ids of bytes that need not be UTF-8; decode_bytes gives the same bytes back."""
        if not isinstance(data, bytes):
            raise TokenizerError(f"data must be bytes, not {type(data).__name__}")
        return self.bpe.encode(data, bool(self.split_special_tokens), False)

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str | None]:
        """Tokens of a text as the vocabulary spells them."""
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def warn_once(self, topic: str) -> bool:
        """True the first time that it is asked for a topic."""
        is_first = topic not in self._has_warned
        self._has_warned.add(topic)
        return is_first

    def warn_if_too_long(self, num_tokens: int) -> None:
        """Log, once, that a sequence is longer than the model takes."""
        if num_tokens > self.model_max_length and self.warn_once("length"):
            logger.warning(
                "a sequence has %d tokens; the model takes at most %d: shorten it, or pass truncation=True",
                num_tokens,
                self.model_max_length,
            )


def _side(name: str, value: str) -> str:
    if value not in ("left", "right"):
        raise TokenizerError(f"{name} is {value!r}; it must be 'left' or 'right'")
    return value


GPT2TokenizerFast = GPT2Tokenizer  # Transformers' name for its Rust tokenizer
