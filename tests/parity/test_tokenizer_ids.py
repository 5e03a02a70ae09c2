"""Ids and offsets equal those of tiktoken and tokenizers: all scalars, random strings, real files."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt2_vocabulary import tiktoken_peer, tokenizers_peer, write_gpt2_vocabulary
from gpt2kit.tokenizer import GPT2Tokenizer

SCALARS = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
# Where pieces begin and end: contractions, the white space of several blocks, digits, marks, joiners, half
# words.
NASTY = [
    *"aZs'tmdlrve 0129\n\r\t\v\f.,!-_/\\\"#<|>",
    *"\u0085\u00a0\u1680\u180e\u2000\u2028\u2029\u202f\u205f\u3000\ufeff\u200b\u200c\u200d\x00\x1c\x1f\x7f",
    *"\u00b2\u00bd\u0660\u0967\u2160\u3007\u4e00\U0001d7ce\u00e9e\u0301\u0e01\u0e33\u05d0\u0627\uac00\U0001f600",
    *[
        "'s",
        "'S",
        "'ll",
        "'re",
        "  ",
        "\n\n",
        "<|endoftext|>",
        "\U0001f468\u200d\U0001f469",
        " the",
        "ing",
        "\u2019s",
    ],
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> GPT2Tokenizer:
    return GPT2Tokenizer.from_pretrained(write_gpt2_vocabulary(tmp_path_factory.mktemp("vocabulary")))


def random_strings(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    makers = [
        lambda n: "".join(rng.choices(NASTY, k=n)),
        lambda n: "".join(rng.choices(SCALARS, k=n)),
        lambda n: "".join(rng.choices(SCALARS[:0x250], k=n)),
        lambda n: "".join(rng.choice(NASTY) * rng.randrange(1, 9) for _ in range(n // 3 + 1)),
        lambda n: bytes(rng.choices(range(256), k=n)).decode("latin-1"),
        lambda n: bytes(rng.choices(range(256), k=n)).decode("utf-8", "replace"),
    ]
    return [rng.choice(makers)(rng.randrange(1, 50)) for _ in range(count)]


def assert_same_ids(tokenizer: GPT2Tokenizer, texts: list[str], *, tokenizers: bool = True) -> None:
    tokenizer.split_special_tokens = True  # "<|endoftext|>" is text to the peers' ordinary encoding
    ours = tokenizer(texts, return_attention_mask=False)["input_ids"]
    theirs = tiktoken_peer().encode_ordinary_batch(texts, num_threads=2)
    assert ours == theirs, next(text for text, a, b in zip(texts, ours, theirs, strict=True) if a != b)
    if tokenizers:
        theirs = [e.ids for e in tokenizers_peer().encode_batch_fast(texts)]
        assert ours == theirs, next(text for text, a, b in zip(texts, ours, theirs, strict=True) if a != b)
    for text, ids in zip(texts, ours, strict=True):
        assert tokenizer.decode(ids) == text


def scalar_lines(step: int) -> list[str]:
    """Every step-th scalar among letters, digits and spaces, many to a text."""
    parts = [f"a{c}b {c}1{c} {c}{c}'s\n" for c in SCALARS[::step]]
    return ["".join(parts[i : i + 500]) for i in range(0, len(parts), 500)]


def test_every_assigned_block_of_scalars(tokenizer: GPT2Tokenizer) -> None:
    # A prime step meets every block; all scalars are in the slow test, all below U+0700 here.
    assert_same_ids(tokenizer, scalar_lines(37))
    assert_same_ids(tokenizer, [f"a{c}b {c}1{c} {c}{c}'s\n" for c in SCALARS[:0x700]])


@pytest.mark.slow
def test_every_scalar(tokenizer: GPT2Tokenizer) -> None:
    assert_same_ids(tokenizer, scalar_lines(1))
    assert_same_ids(tokenizer, SCALARS)


def test_random_strings(tokenizer: GPT2Tokenizer) -> None:
    assert_same_ids(tokenizer, random_strings(4000, seed=1))


@pytest.mark.slow
def test_many_random_strings(tokenizer: GPT2Tokenizer) -> None:
    for seed in range(20):
        assert_same_ids(tokenizer, random_strings(10_000, seed=100 + seed))


def test_offsets_and_words(tokenizer: GPT2Tokenizer) -> None:
    tokenizer.split_special_tokens = True
    texts = random_strings(1500, seed=2)
    ours = tokenizer(texts, return_offsets_mapping=True)
    for i, theirs in enumerate(tokenizers_peer().encode_batch(texts)):
        assert ours["offset_mapping"][i] == theirs.offsets, texts[i]
        assert ours.word_ids(i) == theirs.word_ids, texts[i]
        assert ours.tokens(i) == theirs.tokens, texts[i]


@pytest.mark.parametrize("text", ["\ud83d\ude00", "a\ud800b", "\udfff", "\udc00\ud800"])
def test_lone_surrogates_as_in_tiktoken(tokenizer: GPT2Tokenizer, text: str) -> None:
    assert tokenizer.encode(text) == tiktoken_peer().encode_ordinary(text)


def readable_files(wanted_bytes: int) -> Iterator[str]:
    """Texts of the Python installation and of the system's shared folder."""
    total = 0
    places = [
        Path(sysconfig.get_paths()["stdlib"]),
        Path("/usr/share"),
        Path(sysconfig.get_paths()["purelib"]),
    ]
    for place in places:
        for folder, _, names in os.walk(place):
            for name in sorted(names):
                path = Path(folder, name)
                try:
                    if path.is_symlink() or not 0 < path.stat().st_size < 4_000_000:
                        continue
                    text = path.read_bytes().decode("utf-8")
                except (OSError, UnicodeDecodeError):
                    continue
                yield text
                total += len(text.encode())
                if total > wanted_bytes:
                    return


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_files_of_this_machine(tokenizer: GPT2Tokenizer) -> None:
    texts: list[str] = []
    for text in readable_files(40_000_000):
        texts.append(text)
        if len(texts) == 200:
            assert_same_ids(tokenizer, texts)
            texts = []
    assert_same_ids(tokenizer, texts)


@pytest.mark.slow
def test_character_tables_are_as_generated() -> None:
    script = Path(__file__).parents[2] / "native" / "tools" / "unicode_tables.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True)
