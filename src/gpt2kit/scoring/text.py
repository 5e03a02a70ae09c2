"""Scores of texts: log-probabilities of their tokens, perplexity and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any

from gpt2kit.errors import ScoringError
from gpt2kit.generation.protocol import Engine
from gpt2kit.scoring.tokens import BATCH_TOKENS, log_probabilities, resolve_window
from gpt2kit.tokenizer.bpe import token_bytes


@dataclass(frozen=True)
class Score:
    """How probable one text is.

    token_ids: the ids of the text; a begin token that was put before it is not among them.
    tokens: the text of each id; a token that holds a part of a character shows as U+FFFD.
    log_probabilities: natural logarithms, one a token; None for a first token without context.
    num_tokens, num_scored: how many tokens there are, and how many of them have a log-probability.
    num_bytes: bytes of UTF-8 that the scored tokens stand for: of the whole text, if it was scored whole.
    sum, mean: of the log-probabilities, in nats. perplexity: exp(-mean), infinite where a float cannot hold
        it. bits_per_byte: -sum / ln 2 / num_bytes. All but sum are None where nothing was scored.
    """

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    log_probabilities: tuple[float | None, ...]
    num_tokens: int
    num_scored: int
    num_bytes: int
    sum: float
    mean: float | None
    perplexity: float | None
    bits_per_byte: float | None


@dataclass(frozen=True)
class Total:
    """How probable texts are together: every token counts the same, whichever text it is in.

    The fields are those of Score, over all texts.
    """

    num_texts: int
    num_tokens: int
    num_scored: int
    num_bytes: int
    sum: float
    mean: float | None
    perplexity: float | None
    bits_per_byte: float | None


def score(
    engine: Engine,
    tokenizer: Any,  # a GPT2Tokenizer, or another byte-level one with Transformers' methods
    texts: Iterable[str],
    *,
    stride: int | None = None,
    window: int | None = None,
    add_bos: bool = True,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Score]:
    """Return the score of each text, in order.

    Texts may have any lengths. A text's score does not depend on the others: on the native engine to the bit.

    stride, window: how a text longer than the window is cut. A window of `window` tokens (by default
        n_positions) begins every `stride` tokens (by default half the window) and scores what is new in it,
        so every token is scored once, with at least window - stride tokens before it. As in Transformers'
        guide to perplexity. The begin token stands in the first window only.
    add_bos: put the tokenizer's begin token (GPT-2's <|endoftext|>) before each text, as a document began in
        training. Then every token is scored, the first one too. Without it the first token is not scored, and
        a text of one token has nothing that is. An empty text has no tokens and a sum of 0.0 either way.
    batch_tokens: tokens a call of the engine; bounds memory, changes no result.

    Raises ScoringError for options out of range or a tokenizer that does not fit the model.

        >>> from gpt2kit import AutoTokenizer, builtin, load_engine
        >>> tokenizer = AutoTokenizer.from_pretrained(builtin.path())
        >>> [result] = score(load_engine(builtin.path()), tokenizer, ["In the beginning God created"])
        >>> result.perplexity < 100
        True
    """
    if isinstance(texts, (str, bytes)):
        raise ScoringError("texts is one text; give a list of texts: [text]")
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ScoringError(f"text {index} is of type {type(text).__name__}; a text is a str")
    resolve_window(engine, window, stride)  # before the tokenizer's work
    begin = [_begin_id(tokenizer)] if add_bos else []
    # The tokenizer's own begin and end tokens stay out: add_bos alone says what is put before a text.
    encoded = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
    values = log_probabilities(
        engine, [begin + ids for ids in encoded], stride=stride, window=window, batch_tokens=batch_tokens
    )
    return [
        _score(tokenizer, text, ids, row.tolist())
        for text, ids, row in zip(texts, encoded, values, strict=True)
    ]


def total(scores: Items[Score]) -> Total:
    """Return the score of all texts together."""
    log_probability = math.fsum(score.sum for score in scores)
    num_scored = sum(score.num_scored for score in scores)
    num_bytes = sum(score.num_bytes for score in scores)
    return Total(
        len(scores),
        sum(score.num_tokens for score in scores),
        num_scored,
        num_bytes,
        log_probability,
        *_measures(log_probability, num_scored, num_bytes),
    )


def _score(tokenizer: Any, text: str, ids: list[int], values: list[float]) -> Score:
    spellings = [token_bytes(token) for token in tokenizer.convert_ids_to_tokens(ids)]
    num_unscored = len(ids) - len(values)
    if num_unscored == 0:
        num_bytes = len(text.encode("utf-8", "surrogatepass"))
    else:
        num_bytes = sum(map(len, spellings[num_unscored:]))
    log_probability = math.fsum(values)
    return Score(
        tuple(ids),
        tuple(data.decode("utf-8", "replace") for data in spellings),
        (*[None] * num_unscored, *values),
        len(ids),
        len(values),
        num_bytes,
        log_probability,
        *_measures(log_probability, len(values), num_bytes),
    )


def _measures(
    log_probability: float, num_scored: int, num_bytes: int
) -> tuple[float | None, float | None, float | None]:
    """Return mean, perplexity and bits per byte."""
    if num_scored == 0:
        return None, None, None
    mean = log_probability / num_scored
    try:
        perplexity = math.exp(-mean)
    except OverflowError:
        perplexity = math.inf
    # A vocabulary may hold a token that stands for no bytes.
    bits_per_byte = -log_probability / math.log(2) / num_bytes if num_bytes > 0 else None
    return mean, perplexity, bits_per_byte


def _begin_id(tokenizer: Any) -> int:
    for name in ("bos_token_id", "eos_token_id"):
        token_id = getattr(tokenizer, name, None)
        if token_id is not None:
            return int(token_id)
    raise ScoringError("the tokenizer has no begin token (bos_token) to put before a text; use add_bos=False")
