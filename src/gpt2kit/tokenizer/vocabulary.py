"""Reading vocabularies: vocab.json with merges.txt, tokenizer.json, tiktoken ranks.

The large parts are parsed in C++; what is small is read here. Damaged and foreign files give a TokenizerError
that names the file and what is wrong with it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from gpt2kit._native import Bpe, model_spans
from gpt2kit.errors import TokenizerError
from gpt2kit.tokenizer.added_token import AddedToken, as_added_token
from gpt2kit.tokenizer.bpe import BYTE_TO_CHAR
from gpt2kit.tokenizer.template import Template, read_template

# Larger files are refused before they are read; GPT-2's tokenizer.json has 3.6 MB.
MAX_FILE_BYTES = 1 << 28


@dataclass
class VocabularyFile:
    """A vocabulary and what its file says besides."""

    bpe: Bpe
    added_tokens: dict[int, AddedToken] = field(default_factory=dict)
    template: Template | None = None  # None: the file does not say
    add_prefix_space: bool | None = None
    # Defaults that Transformers takes from the file: truncation_side, padding_side, pad_token.
    options: dict[str, Any] = field(default_factory=dict)


def load_vocabulary(
    vocab: str | PathLike[str] | Mapping[str, int] | None,
    merges: str | PathLike[str] | Sequence[str | Sequence[str]] | None,
    tokenizer_file: str | PathLike[str] | None,
) -> VocabularyFile:
    """Load vocab with merges, each a path or the object itself; tiktoken ranks; or a tokenizer.json."""
    if vocab is None and tokenizer_file is not None:
        return read_tokenizer_json(tokenizer_file)
    if vocab is None:
        raise TokenizerError(
            "no vocabulary was given; pass vocab and merges, or tokenizer_file, or use "
            "GPT2Tokenizer.from_pretrained"
        )
    if isinstance(vocab, Mapping):
        return make_vocabulary(vocab, merges if merges is not None else [])
    if merges is not None:
        return make_vocabulary(vocab, merges)
    if Path(vocab).name.endswith("tokenizer.json"):
        return read_tokenizer_json(vocab)
    if Path(vocab).suffix == ".json":
        raise TokenizerError(f"{vocab} was given without merges; byte-level BPE needs merges.txt too")
    return read_tiktoken(vocab)


def make_vocabulary(
    vocab: str | PathLike[str] | Mapping[str, int],
    merges: str | PathLike[str] | Sequence[str | Sequence[str]],
    *,
    ignore_merges: bool = False,
) -> VocabularyFile:
    """Build from token to id, and merges ("left right" or pairs) by rising rank; or from their files.

    OpenAI's encoder.json and vocab.bpe are a vocab.json and a merges.txt.
    """
    try:
        vocab_data = _to_json(dict(vocab)) if isinstance(vocab, Mapping) else read_file(vocab)
        merges_are_json = not isinstance(merges, (str, PathLike))
        if isinstance(merges, (str, PathLike)):
            merges_data = read_file(merges)
        else:
            merges_data = _to_json([merge if isinstance(merge, str) else list(merge) for merge in merges])
    except (TypeError, UnicodeEncodeError) as error:
        raise TokenizerError(f"vocab must map str to int and merges be pairs of str: {error}") from None
    try:
        return VocabularyFile(Bpe(vocab_data, merges_data, merges_are_json, ignore_merges))
    except ValueError as error:
        source = "the given vocabulary" if isinstance(vocab, Mapping) else str(vocab)
        source += "" if merges_are_json else f" with {merges}"
        raise TokenizerError(f"{source}: {error}") from None


def read_tokenizer_json(path: str | PathLike[str]) -> VocabularyFile:
    """Read a tokenizer.json of the `tokenizers` library, if it describes byte-level BPE as GPT-2 has it."""
    data = read_file(path)
    try:
        vocab_span, merges_span = model_spans(data)
        if vocab_span[1] == 0 or merges_span[1] == 0:
            raise TokenizerError('it has no "model" with "vocab" and "merges"; only BPE models can be read')
        return _read_document(data, vocab_span, merges_span)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: {error}") from None


def read_tiktoken(path: str | PathLike[str]) -> VocabularyFile:
    """Read tiktoken ranks: lines of a token in base64 and its rank, which is also its id.

    tiktoken has no merges: any two neighbours merge if they make a token. All such pairs become merges here.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(read_file(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise TokenizerError(
                f"{path}: line {number} is {line[:40]!r}, not a token in base64, a space and its rank"
            ) from None
    spelling = {token: "".join(BYTE_TO_CHAR[byte] for byte in token) for token in ranks}
    merges = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        halves = [(token[:i], token[i:]) for i in range(1, len(token))]
        merges += [(spelling[a], spelling[b]) for a, b in halves if a in ranks and b in ranks]
    try:
        return make_vocabulary(
            {spelling[token]: rank for token, rank in ranks.items()}, merges, ignore_merges=True
        )
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None


def read_file(path: str | PathLike[str]) -> bytes:
    """Read a file of sane size; raises TokenizerError with the reason if that is not possible."""
    try:
        size = Path(path).stat().st_size
        if size > MAX_FILE_BYTES:
            raise TokenizerError(f"{path} has {size} bytes; at most {MAX_FILE_BYTES} are read")
        return Path(path).read_bytes()
    except OSError as error:
        raise TokenizerError(f"cannot read {path}: {error.strerror or error}") from None


def _to_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _read_document(data: bytes, vocab_span: tuple[int, int], merges_span: tuple[int, int]) -> VocabularyFile:
    # What is left when the two large values are cut out is a few kilobytes.
    spans = sorted([(*vocab_span, b"{}"), (*merges_span, b"[]")])
    (first, first_end, first_value), (second, second_end, second_value) = spans
    rest = data[:first] + first_value + data[first_end:second] + second_value + data[second_end:]
    document = json.loads(rest)
    model = document["model"]
    _check_model(model)
    _check_parts(document)
    bpe = Bpe(
        data[slice(*vocab_span)],
        data[slice(*merges_span)],
        merges_are_json=True,
        ignore_merges=model.get("ignore_merges") is True,
    )
    if model.get("fuse_unk") and any(bpe.token_to_id(char) is None for char in BYTE_TO_CHAR.values()):
        raise TokenizerError(
            "fuse_unk is set and the vocabulary lacks some of the 256 bytes; this is not supported"
        )
    added = {}
    for item in document.get("added_tokens") or []:
        if not isinstance(item, dict) or not isinstance(item.get("id"), int):
            raise TokenizerError(f"the added token {item!r} has no integer id")
        added[item["id"]] = as_added_token(item)
    return VocabularyFile(
        bpe,
        added,
        read_template(document.get("post_processor")),
        bool(_byte_level(document.get("pre_tokenizer")).get("add_prefix_space", True)),
        _file_options(document),
    )


def _check_model(model: Mapping[str, Any]) -> None:
    kind = model.get("type", "BPE")
    if kind != "BPE":
        raise TokenizerError(f"the model is {kind!r}; a GPT-2 tokenizer is BPE")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            raise TokenizerError(
                f"the model has {key} = {model[key]!r}, which GPT-2's byte-level BPE does not have"
            )


def _check_parts(document: Mapping[str, Any]) -> None:
    if document.get("normalizer") is not None:
        raise TokenizerError("it has a normalizer; GPT-2 changes nothing in the text before splitting it")
    if not _byte_level(document.get("pre_tokenizer")).get("use_regex", True):
        raise TokenizerError("its pre_tokenizer does not split by GPT-2's pattern (use_regex is false)")
    decoder = document.get("decoder")
    if decoder is not None and (not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel"):
        raise TokenizerError("its decoder is not ByteLevel, so it is not a GPT-2 tokenizer")


def _byte_level(pre_tokenizer: Any) -> Mapping[str, Any]:
    parts = pre_tokenizer
    if isinstance(parts, dict) and parts.get("type") == "Sequence":
        parts = parts.get("pretokenizers")
    parts = parts if isinstance(parts, list) else [parts]
    if len(parts) != 1 or not isinstance(parts[0], dict) or parts[0].get("type") != "ByteLevel":
        raise TokenizerError("its pre_tokenizer is not ByteLevel, so it does not split text as GPT-2 does")
    return parts[0]


def _file_options(document: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    truncation, padding = document.get("truncation"), document.get("padding")
    if isinstance(truncation, dict) and "direction" in truncation:
        options["truncation_side"] = str(truncation["direction"]).lower()
    if isinstance(padding, dict):
        if "direction" in padding:
            options["padding_side"] = str(padding["direction"]).lower()
        if "pad_token" in padding:
            options["pad_token"] = padding["pad_token"]
    return options
