"""Token ids and texts that are known from elsewhere, written out."""

from __future__ import annotations

import pytest

from gpt2kit.tokenizer import GPT2Tokenizer


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world", [15496, 995]),
        (" Hello world", [18435, 995]),
        ("Hello, I'm a language model", [15496, 11, 314, 1101, 257, 3303, 2746]),
        ("<|endoftext|>", [50256]),
        ("", []),
    ],
)
def test_ids_of_gpt2(tokenizer: GPT2Tokenizer, text: str, ids: list[int]) -> None:
    assert tokenizer(text)["input_ids"] == ids
    assert tokenizer.encode(text) == ids
    assert tokenizer.decode(ids) == text


def test_toy_vocabulary(toy: GPT2Tokenizer) -> None:
    tokens = toy.tokenize("lower newer", add_prefix_space=True)
    assert tokens == ["\u0120low", "er", "\u0120", "n", "e", "w", "er"]
    assert toy.convert_tokens_to_ids([*tokens, toy.unk_token]) == [14, 15, 10, 9, 3, 2, 15, 19]


def test_bytes_without_a_token_become_unk(toy: GPT2Tokenizer) -> None:
    assert toy.encode("lox\u00e9") == [0, 1, 19, 19, 19]


def test_bytes_without_a_token_are_refused_without_unk(toy: GPT2Tokenizer) -> None:
    toy.unk_token = None
    with pytest.raises(ValueError, match="no unk_token"):
        toy.encode("x")


def test_added_tokens_of_gpt2(tokenizer: GPT2Tokenizer) -> None:
    assert (tokenizer.vocab_size, len(tokenizer)) == (50257, 50257)
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == tokenizer.unk_token_id == 50256
    assert tokenizer.pad_token is None
    assert tokenizer.pad_token_id is None
