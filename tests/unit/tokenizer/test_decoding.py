"""Decoding whole and as a stream, with every way of treating bytes that are not UTF-8."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2kit.errors import TokenizerError
from gpt2kit.tokenizer import GPT2Tokenizer, StreamDecoder

HALF_EMOJI = [30325]  # " \U0001f6" of " \U0001f600": a space and two bytes of four


def stream(tokenizer: GPT2Tokenizer, ids: list[int], *, skip: bool = False) -> list[str]:
    decoder = StreamDecoder(tokenizer, skip_special_tokens=skip)
    return [*map(decoder.push, ids), decoder.finish()]


def test_errors_argument(vocab_folder) -> None:  # type: ignore[no-untyped-def]
    def decoded(errors: str) -> str:
        text: str = GPT2Tokenizer.from_pretrained(vocab_folder, errors=errors).decode(HALF_EMOJI)
        return text

    assert decoded("replace") == " \ufffd"
    assert decoded("ignore") == " "
    assert decoded("backslashreplace") == " \\xf0\\x9f\\x98"
    assert decoded("surrogateescape").encode("utf-8", "surrogateescape") == b" \xf0\x9f\x98"
    with pytest.raises(UnicodeDecodeError):
        decoded("strict")


def test_unknown_errors_argument(vocab_folder) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TokenizerError, match="'shout'"):
        GPT2Tokenizer.from_pretrained(vocab_folder, errors="shout")


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=40))
def test_round_trip(tokenizer_once: GPT2Tokenizer, text: str) -> None:
    assert tokenizer_once.decode(tokenizer_once.encode(text)) == text
    assert "".join(stream(tokenizer_once, tokenizer_once.encode(text))) == text


@pytest.fixture(scope="module")
def tokenizer_once(vocab_folder) -> GPT2Tokenizer:  # type: ignore[no-untyped-def]
    return GPT2Tokenizer.from_pretrained(vocab_folder)


@pytest.mark.parametrize("errors", ["replace", "ignore", "backslashreplace", "surrogateescape"])
@pytest.mark.parametrize("skip", [False, True])
def test_stream_equals_decode_of_the_whole(vocab_folder, errors: str, skip: bool) -> None:  # type: ignore[no-untyped-def]
    tokenizer = GPT2Tokenizer.from_pretrained(vocab_folder, errors=errors)
    rng = random.Random(3)
    halves = [id for id in range(50257) if b"\xf0" in tokenizer.decode_bytes([id])] + list(range(94, 256))
    for _ in range(300):
        ids = [
            rng.choice([*halves[:40], *range(188, 256), 50256, 464, 220]) for _ in range(rng.randrange(12))
        ]
        parts = stream(tokenizer, ids, skip=skip)
        assert "".join(parts) == tokenizer.decode(ids, skip_special_tokens=skip)


def test_stream_never_gives_half_a_character(tokenizer: GPT2Tokenizer) -> None:
    text = "a\u00e9\u4e2d\U0001f600\U0001f468\u200d\U0001f469 z"
    pieces = stream(
        tokenizer,
        [id for char in text for byte in char.encode() for id in tokenizer.encode_bytes(bytes([byte]))],
    )
    assert [piece for piece in pieces if piece] == list(text)


def test_stream_of_an_unfinished_character(tokenizer: GPT2Tokenizer) -> None:
    decoder = StreamDecoder(tokenizer)
    assert decoder.push(HALF_EMOJI[0]) == " "
    assert decoder.finish() == "\ufffd"
    assert decoder.push(64) == "a"


def test_stream_with_a_tokenizer_of_transformers(vocab_folder) -> None:  # type: ignore[no-untyped-def]
    import transformers

    theirs = transformers.GPT2Tokenizer.from_pretrained(vocab_folder)
    ids = theirs("h\u00e9llo \U0001f600<|endoftext|>")["input_ids"]
    for skip in (False, True):
        decoder = StreamDecoder(theirs, skip_special_tokens=skip)
        text = "".join([*map(decoder.push, ids), decoder.finish()])
        assert text == theirs.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize(
    "ids",
    [
        [464, 3290],
        (464, 3290),
        np.array([464, 3290]),
        np.array([464, 3290], dtype=np.uint16),
        {"input_ids": [464, 3290]},
    ],
)
def test_forms_of_ids(tokenizer: GPT2Tokenizer, ids: object) -> None:
    assert tokenizer.decode(ids) == "The dog"


def test_batches_and_single_ids(tokenizer: GPT2Tokenizer) -> None:
    assert tokenizer.decode([[464], [3290, 464]]) == ["The", " dogThe"]
    assert tokenizer.decode(np.array([[464, 3290]])) == ["The dog"]
    assert tokenizer.batch_decode([[464], []]) == ["The", ""]
    assert tokenizer.decode(464) == "The"
    assert tokenizer.decode(np.int64(464)) == "The"
    assert tokenizer.decode([]) == ""


def test_ids_that_there_are_not_stand_for_nothing(tokenizer: GPT2Tokenizer) -> None:
    assert tokenizer.decode([464, 50257, 2**40, 3290]) == "The dog"


@pytest.mark.parametrize("ids", [[-1], [2**70], [1.5], ["a"], [None]])
def test_what_is_no_id_is_refused(tokenizer: GPT2Tokenizer, ids: list[object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        tokenizer.decode(ids)


def test_special_tokens_are_skipped_if_asked(tokenizer: GPT2Tokenizer) -> None:
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.add_tokens(["ordinary"])
    ids = tokenizer.encode("a[PAD]ordinary<|endoftext|>")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "aordinary"


def test_clean_up_is_only_done_by_force(tokenizer: GPT2Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    ids = tokenizer.encode("Hello , he 's here .")
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=True) == "Hello , he 's here ."
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=True) == "Hello , he 's here ."
    assert len([r for r in caplog.records if "clean_up" in r.message]) == 1
    tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=True) == "Hello, he's here."
