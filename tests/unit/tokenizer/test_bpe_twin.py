"""The plain Python twin is the specification: the C++ core must give its ids, for text and for bytes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2kit.tokenizer import GPT2Tokenizer, bpe

ALPHABET = (
    "ab'sSt 1!_-<|\n\t\x1c\x1d\u0085\u00a0\u1680\u180e\u2028\u3000"
    "\u00b2\u00bd\u00e9\u0301\u0e01\u200d\u4e2d\ud7ff\U0001f600"
)


@pytest.fixture(scope="session")
def twin(vocab_folder: Path) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    vocab = json.loads((vocab_folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (vocab_folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(lines) if line}
    return vocab, ranks  # type: ignore[return-value]


@pytest.fixture(scope="session")
def core(vocab_folder: Path) -> GPT2Tokenizer:
    return GPT2Tokenizer.from_pretrained(vocab_folder)


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.sampled_from(ALPHABET) | st.characters(exclude_categories=["Cs"]), max_size=60))
def test_text(
    core: GPT2Tokenizer, twin: tuple[dict[str, int], dict[tuple[str, str], int]], text: str
) -> None:
    assert core.encode(text, split_special_tokens=True) == bpe.encode(text, *twin)
    assert "".join(bpe.split_pieces(text)) == text


@settings(max_examples=300, deadline=None)
@given(
    data=st.binary(max_size=60)
    | st.lists(st.sampled_from([b"\xe2\x82", b" ", b"a", b"\xf0\x9f", b"\xff"])).map(b"".join)
)
def test_bytes(
    core: GPT2Tokenizer, twin: tuple[dict[str, int], dict[tuple[str, str], int]], data: bytes
) -> None:
    ids = core.encode_bytes(data)
    assert ids == bpe.encode(data, *twin)
    assert core.decode_bytes(ids) == data


def test_merges_of_any_order() -> None:
    """Small random vocabularies, whose ranks are not those that training gives."""
    rng = random.Random(5)
    for _ in range(200):
        tokens = [chr(c) for c in range(ord("a"), ord("d"))]
        merges: list[tuple[str, str]] = []
        for _ in range(rng.randrange(1, 25)):
            pair = (rng.choice(tokens), rng.choice(tokens))
            if pair not in merges:
                merges.append(pair)
                tokens += [pair[0] + pair[1]] if pair[0] + pair[1] not in tokens else []
        rng.shuffle(merges)
        vocab = {token: i for i, token in enumerate(tokens)}
        core = GPT2Tokenizer(vocab, merges, unk_token=None, bos_token=None, eos_token=None)
        ranks = {pair: rank for rank, pair in enumerate(merges)}
        for size in (1, 2, 7, 39, 40, 41, 90, 300):
            text = "".join(rng.choice("abc") for _ in range(size))
            assert core.encode(text) == bpe.encode(text, vocab, ranks), (merges, text)


def test_token_bytes_of_the_vocabulary(core: GPT2Tokenizer) -> None:
    for token, id in core.get_vocab().items():
        assert core.decode_bytes([id]) == bpe.token_bytes(token)


def test_byte_alphabet_is_a_bijection() -> None:
    assert len(bpe.CHAR_TO_BYTE) == len(bpe.BYTE_TO_CHAR) == 256
    assert bpe.BYTE_TO_CHAR[ord(" ")] == "\u0120"
