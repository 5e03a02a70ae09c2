"""Training a new vocabulary on texts, with the `tokenizers` library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gpt2kit.errors import MissingDependencyError, TokenizerError
from gpt2kit.tokenizer.added_token import AddedToken
from gpt2kit.tokenizer.token_table import NAMES

if TYPE_CHECKING:
    from gpt2kit.tokenizer.gpt2 import GPT2Tokenizer


def train_new_from_iterator(
    tokenizer: GPT2Tokenizer,
    text_iterator: Iterable[str] | Iterable[list[str]],
    vocab_size: int,
    length: int | None = None,
    new_special_tokens: list[str | AddedToken] | None = None,
    special_tokens_map: Mapping[str, str] | None = None,
    **trainer_options: Any,
) -> GPT2Tokenizer:
    """Train a tokenizer like this one on other texts.

    text_iterator: texts, or lists of them. vocab_size counts the 256 bytes and the special tokens.
    length: number of texts, for the progress bar. special_tokens_map renames special tokens of this
    tokenizer.
    trainer_options: those of tokenizers.trainers.BpeTrainer (min_frequency, show_progress, max_token_length
    ...).
    """
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    except ImportError:
        raise MissingDependencyError(
            "training a vocabulary needs tokenizers: pip install 'gpt2kit[train]'"
        ) from None
    renamed = dict(special_tokens_map or {})
    old = [token for token in tokenizer.added_tokens_decoder.values() if token.special]
    special = [renamed.get(token.content, token.content) for token in old]
    special += [str(token) for token in new_special_tokens or [] if str(token) not in special]
    if vocab_size < 256 + len(special):
        raise TokenizerError(
            f"vocab_size is {vocab_size}; it must be at least {256 + len(special)}: 256 bytes and "
            f"{len(special)} "
            "special tokens"
        )
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=tokenizer.add_prefix_space)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, **trainer_options
    )
    trained.train_from_iterator(text_iterator, trainer=trainer, length=length)

    model = json.loads(trained.to_str())["model"]
    flags = {renamed.get(token.content, token.content): token.as_dict() for token in old}
    extra = [renamed.get(token, token) for token in tokenizer.extra_special_tokens]
    extra += [str(token) for token in new_special_tokens or []]
    result = type(tokenizer)(
        model["vocab"],
        model["merges"],
        errors=tokenizer.errors,
        add_prefix_space=tokenizer.add_prefix_space,
        add_bos_token=tokenizer.add_bos_token,
        add_eos_token=tokenizer.add_eos_token,
        added_tokens_decoder={
            model["vocab"][token]: AddedToken(**(flags.get(token, {"special": True}) | {"content": token}))
            for token in special
        },
        extra_special_tokens=extra or None,
        unk_token=None,
        bos_token=None,
        eos_token=None,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        model_input_names=tokenizer.model_input_names,
        chat_template=tokenizer.chat_template,
    )
    for name in NAMES:
        token = tokenizer.tokens.named.get(name)
        content = None if token is None else renamed.get(token.content, token.content)
        setattr(
            result, name, None if token is None else AddedToken(**(token.as_dict() | {"content": content}))
        )
    return result
