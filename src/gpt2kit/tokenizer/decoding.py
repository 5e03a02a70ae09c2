"""From token ids back to text."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gpt2kit.tokenizer.bpe import token_bytes

if TYPE_CHECKING:
    from gpt2kit.tokenizer.gpt2 import GPT2Tokenizer

logger = logging.getLogger("gpt2kit")


def decode(
    tokenizer: GPT2Tokenizer,
    token_ids: Any,
    skip_special_tokens: bool = False,
    clean_up_tokenization_spaces: bool | None = None,
) -> Any:
    """Text of token ids (a list, an array or tensor, a single id); a list of texts for a batch of them.

    Ids that no token has stand for nothing. Bytes that are not UTF-8 become what the tokenizer's `errors`
    says.
    """
    if isinstance(token_ids, Mapping):
        token_ids = token_ids["input_ids"]
    token_ids = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
    if isinstance(token_ids, int):
        token_ids = [token_ids]
    if len(token_ids) > 0 and (
        isinstance(token_ids[0], (list, tuple)) or getattr(token_ids[0], "ndim", 0) > 0
    ):
        return [
            decode(tokenizer, row, skip_special_tokens, clean_up_tokenization_spaces) for row in token_ids
        ]
    data = decode_bytes(tokenizer, token_ids, skip_special_tokens=skip_special_tokens)
    text = data.decode("utf-8", tokenizer.errors)
    clean_up = clean_up_tokenization_spaces
    if tokenizer.clean_up_tokenization_spaces if clean_up is None else clean_up:
        return _clean_up(tokenizer, text)
    return text


def batch_decode(
    tokenizer: GPT2Tokenizer,
    sequences: Any,
    skip_special_tokens: bool = False,
    clean_up_tokenization_spaces: bool | None = None,
) -> list[str]:
    """As decode, but always a list."""
    text = decode(tokenizer, sequences, skip_special_tokens, clean_up_tokenization_spaces)
    return [text] if isinstance(text, str) else text


def decode_bytes(
    tokenizer: GPT2Tokenizer, token_ids: Iterable[int], *, skip_special_tokens: bool = False
) -> bytes:
    """Bytes that token ids stand for, which need not be UTF-8."""
    if skip_special_tokens:
        special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        token_ids = [id for id in token_ids if int(id) not in special]
    return tokenizer.bpe.decode(token_ids)


def convert_tokens_to_string(tokenizer: GPT2Tokenizer, tokens: Iterable[str]) -> str:
    """Text that tokens, as the vocabulary spells them, stand for."""
    return b"".join(map(token_bytes, tokens)).decode("utf-8", tokenizer.errors)


def clean_up_tokenization(text: str) -> str:
    """Take out the spaces before punctuation and contractions, as for WordPiece."""
    for ending in (".", "?", "!", ","):
        text = text.replace(" " + ending, ending)
    text = text.replace(" ' ", "'")
    for ending in ("n't", "'m", "'s", "'ve", "'re"):
        text = text.replace(" " + ending, ending)
    return text


def _clean_up(tokenizer: GPT2Tokenizer, text: str) -> str:
    if tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output:
        return clean_up_tokenization(text)
    if tokenizer.warn_once("clean_up"):
        logger.warning(
            "clean_up_tokenization_spaces is not done: it takes spaces out of a byte-level BPE's text "
            "that belong "
            "there; clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output=True forces it"
        )
    return text
