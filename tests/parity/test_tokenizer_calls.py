"""Calls with random options give what Transformers' GPT2Tokenizer gives, or both refuse."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from gpt2_vocabulary import write_gpt2_vocabulary
from gpt2kit.tokenizer import AddedToken, GPT2Tokenizer

WORDS = [
    "a",
    "foo",
    "Hello",
    " world",
    "  x",
    "\n",
    "1234",
    "don't",
    "\u00e9t\u00e9",
    "\U0001f600",
    "<|endoftext|>",
    "antidisestablish",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gpt2_vocabulary(tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture(autouse=True)
def quiet() -> Any:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def text(rng: random.Random) -> str:
    return "".join(rng.choices(WORDS, k=rng.choice([0, 1, 1, 2, 3, 5, 9])))


def words(rng: random.Random) -> list[str]:
    return [text(rng) for _ in range(rng.randrange(1, 5))]


def inputs(rng: random.Random, split: bool) -> tuple[Any, Any]:
    make: Callable[[random.Random], Any] = words if split else text
    is_batch, is_pair = rng.random() < 0.6, rng.random() < 0.4
    if not is_batch:
        return make(rng), make(rng) if is_pair else None
    count = rng.randrange(1, 5)
    first = [make(rng) for _ in range(count)]
    return first, [make(rng) for _ in range(count)] if is_pair else None


def call_options(rng: random.Random) -> dict[str, Any]:
    options: dict[str, Any] = {
        "add_special_tokens": rng.random() < 0.8,
        "padding": rng.choice([False, False, True, "longest", "max_length", "do_not_pad"]),
        "truncation": rng.choice([None, None, True, False, "longest_first", "only_first", "only_second"]),
        "max_length": rng.choice([None, None, 1, 2, 3, 5, 8, 16]),
        "stride": rng.choice([0, 0, 0, 1, 2]),
        "pad_to_multiple_of": rng.choice([None, None, None, 4]),
        "padding_side": rng.choice([None, "left", "right"]),
        "return_tensors": rng.choice([None, None, "np", "pt"]),
        "return_token_type_ids": rng.choice([None, True, False]),
        "return_attention_mask": rng.choice([None, True, False]),
    }
    for name in ("overflowing_tokens", "special_tokens_mask", "offsets_mapping", "length"):
        options[f"return_{name}"] = rng.random() < 0.4
    if rng.random() < 0.2:
        options["split_special_tokens"] = True
    return options


def outcome(tokenizer: Any, *args: Any, **options: Any) -> Any:
    """A call's values as lists with the kind of tensor, and what its methods say; or that it was refused."""
    try:
        result = tokenizer(*args, **options)
    except BaseException as error:  # tokenizers panics with a BaseException
        if isinstance(error, KeyboardInterrupt):
            raise
        return "refused"
    lengths = {len(encoding.ids) for encoding in result.encodings}
    if options.get("return_tensors") == "pt" and len(lengths) > 1:
        return "refused"  # torch.tensor loses the other rows when the first is empty
    values = {}
    for key, value in result.items():
        kind = type(value).__name__ if isinstance(value, (np.ndarray, torch.Tensor)) else "list"
        rows = value.tolist() if kind != "list" else value
        values[key] = (kind, _tuples_to_lists(rows))
    numbers = range(len(result.encodings))
    # Tokens as the vocabulary spells them; tokenizers adds the white space that a stripping token has taken.
    tokens = [tokenizer.convert_ids_to_tokens(encoding.ids) for encoding in result.encodings]
    methods = [[tokens[i], result.word_ids(i), result.sequence_ids(i)] for i in numbers]
    return values, methods, result.n_sequences


def _tuples_to_lists(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [_tuples_to_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


CONSTRUCTIONS: list[dict[str, Any]] = [
    {"pad_token": "<|endoftext|>"},
    {"pad_token": "<|endoftext|>", "add_bos_token": True},
    {"add_prefix_space": True, "pad_token": "[PAD]", "padding_side": "left", "model_max_length": 6},
    {"add_bos_token": True, "add_eos_token": True, "truncation_side": "left", "pad_token": "<|endoftext|>"},
    {"add_prefix_space": False},
]


def compare_calls(folder: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    for construction in CONSTRUCTIONS:
        ours = GPT2Tokenizer.from_pretrained(folder, **construction)
        theirs = transformers.GPT2Tokenizer.from_pretrained(folder, **construction)
        for _ in range(count):
            # Transformers adds the space before the words of a split text only if built so; GPT-2's page says
            # always.
            split = construction.get("add_prefix_space", False) and rng.random() < 0.4
            first, second = inputs(rng, split)
            options = call_options(rng) | {"is_split_into_words": split}
            # Below the number of special tokens tokenizers' length wraps around; here it is refused.
            if options["max_length"] is not None:
                options["max_length"] = max(
                    options["max_length"], theirs.num_special_tokens_to_add(pair=True)
                )
            got = outcome(ours, first, second, **options)
            wanted = outcome(theirs, first, second, **options)
            assert got == wanted, (construction, first, second, options)


def test_random_calls(folder: Path) -> None:
    compare_calls(folder, 150, seed=3)


@pytest.mark.slow
def test_many_random_calls(folder: Path) -> None:
    compare_calls(folder, 4000, seed=4)


def test_random_added_tokens(folder: Path) -> None:
    rng = random.Random(8)
    plain = ["foo", "foobar", "Hello", "<a>", "<ab>", "\u00e9", "12", "\U0001f600", "don't", "a"]
    for round in range(12):
        # tokenizers finds a token of white space again that a token before it has stripped, so the two do not
        # meet.
        strip = round % 2 == 0
        contents = plain if strip else [*plain, " x", "x ", "\n"]
        ours = GPT2Tokenizer.from_pretrained(folder)
        theirs = transformers.GPT2Tokenizer.from_pretrained(folder)
        # In tokenizers a token that was special once stays so; here the last flags hold.
        special = rng.random() < 0.5
        for _ in range(rng.randrange(1, 4)):
            names = ["single_word", "normalized", *(["lstrip", "rstrip"] if strip else [])]
            flags = {name: rng.random() < 0.3 for name in names}
            tokens = rng.sample(contents, rng.randrange(1, 5))
            num_ours = ours.add_tokens([AddedToken(t, **flags) for t in tokens], special_tokens=special)
            num_theirs = theirs.add_tokens(
                [transformers.AddedToken(t, **flags) for t in tokens], special_tokens=special
            )
            assert num_ours == num_theirs
        assert ours.added_tokens_encoder == theirs.added_tokens_encoder
        assert len(ours) == len(theirs)
        for _ in range(20):
            sample = "".join(rng.choices([*contents, " ", "b", "_", "  ", "\u00e9\u00e9", "<", "y"], k=8))
            for split_special in (False, True):
                got = outcome(ours, sample, return_offsets_mapping=True, split_special_tokens=split_special)
                wanted = outcome(
                    theirs, sample, return_offsets_mapping=True, split_special_tokens=split_special
                )
                assert got == wanted, (sample, ours.added_tokens_decoder)


def test_positions_between_text_and_tokens(folder: Path) -> None:
    ours = GPT2Tokenizer.from_pretrained(folder, add_bos_token=True)
    theirs = transformers.GPT2Tokenizer.from_pretrained(folder, add_bos_token=True)
    pair = ("Hello there \U0001f600, antidisestablish", "two  words")
    a, b = ours(*pair), theirs(*pair)
    for i in range(len(a["input_ids"])):
        assert a.token_to_chars(i) == b.token_to_chars(i)
        assert a.token_to_word(i) == b.token_to_word(i)
        assert a.token_to_sequence(i) == b.token_to_sequence(i)
    for sequence in (0, 1):
        for i in range(45):
            assert a.char_to_token(i, sequence_index=sequence) == b.char_to_token(i, sequence_index=sequence)
            assert a.char_to_word(i, sequence_index=sequence) == b.char_to_word(i, sequence_index=sequence)
            assert a.word_to_tokens(i, sequence_index=sequence) == b.word_to_tokens(
                i, sequence_index=sequence
            )
            if a.word_to_tokens(i, sequence_index=sequence) is not None:
                span = b.word_to_chars(i, sequence_index=sequence)
                assert a.word_to_chars(i, sequence_index=sequence) == span


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["list", "np", "pt", "dicts"])
@pytest.mark.parametrize(
    "options", [{}, {"padding": "max_length", "max_length": 9}, {"pad_to_multiple_of": 4}]
)
def test_pad(folder: Path, side: str, kind: str, options: dict[str, Any]) -> None:
    rows = [[5, 6, 7], [8], [9, 10]]
    results = []
    for cls in (GPT2Tokenizer, transformers.GPT2Tokenizer):
        tokenizer = cls.from_pretrained(folder, pad_token="<|endoftext|>", padding_side=side)
        data: Any = {"input_ids": rows, "special_tokens_mask": [[0] * len(row) for row in rows]}
        if kind == "np":
            data = {key: [np.array(row) for row in value] for key, value in data.items()}
        if kind == "pt":
            data = {key: [torch.tensor(row) for row in value] for key, value in data.items()}
        if kind == "dicts":
            data = [{"input_ids": row, "token_type_ids": [0] * len(row)} for row in rows]
        padded = tokenizer.pad(data, **options)
        results.append({k: (type(v).__name__, np.asarray(v).tolist()) for k, v in padded.items()})
    assert results[0] == results[1]


def test_special_token_properties(folder: Path) -> None:
    def state(tokenizer: Any) -> list[Any]:
        names = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
        values = [getattr(tokenizer, f"{name}_token{end}") for name in names for end in ("", "_id")]
        return [
            values, tokenizer.special_tokens_map, tokenizer.all_special_tokens, tokenizer.all_special_ids,
            tokenizer.extra_special_tokens, tokenizer.added_tokens_encoder, len(tokenizer),
            tokenizer.vocab_size, tokenizer.num_special_tokens_to_add(),
            tokenizer.num_special_tokens_to_add(pair=True), tokenizer.max_len_single_sentence,
            tokenizer.add_bos_token, tokenizer.get_special_tokens_mask([1, 50256],
            already_has_special_tokens=True),
        ]  # fmt: skip

    ours = GPT2Tokenizer.from_pretrained(folder, model_max_length=1024, add_bos_token=True)
    theirs = transformers.GPT2Tokenizer.from_pretrained(folder, model_max_length=1024, add_bos_token=True)
    steps: list[Callable[[Any], Any]] = [
        lambda t: None,
        lambda t: setattr(t, "pad_token", "<|endoftext|>"),
        lambda t: setattr(t, "pad_token_id", 5),
        lambda t: t.add_special_tokens({"pad_token": "[PAD]", "cls_token": "Hello"}),
        lambda t: t.add_special_tokens({"extra_special_tokens": ["<x>", "<y>"]}),
        lambda t: t.add_special_tokens({"extra_special_tokens": ["<z>"]}, replace_extra_special_tokens=False),
        lambda t: t.add_tokens(["new", "Hello", "new"]),
        lambda t: setattr(t, "sep_token", "never added"),
        lambda t: setattr(t, "sep_token", None),
    ]
    for i, step in enumerate(steps):
        assert step(ours) == step(theirs), i
        assert state(ours) == state(theirs), i


def test_decode(folder: Path) -> None:
    rng = random.Random(6)
    ours = GPT2Tokenizer.from_pretrained(folder)
    theirs = transformers.GPT2Tokenizer.from_pretrained(folder)
    for tokenizer in (ours, theirs):
        tokenizer.add_special_tokens({"extra_special_tokens": ["<|im start|>"]})
    ids = [rng.choices([*range(50258), 50256, 50257, 60000, 222, 30325], k=12) for _ in range(300)]
    for skip in (False, True):
        assert ours.batch_decode(ids, skip_special_tokens=skip) == theirs.batch_decode(
            ids, skip_special_tokens=skip
        )
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
        assert ours.convert_ids_to_tokens(ids[0], skip) == theirs.convert_ids_to_tokens(ids[0], skip)
    assert ours.decode(torch.tensor(ids)) == theirs.decode(torch.tensor(ids))
    assert ours.decode(464) == theirs.decode(464)
    assert ours.convert_tokens_to_string(["\u0120a", "b"]) == theirs.convert_tokens_to_string(
        ["\u0120a", "b"]
    )
