"""What a call gives beyond what Transformers' own tokenizer still does, and what is refused."""

from __future__ import annotations

import copy
import itertools
import pickle
import threading
from typing import Any

import numpy as np
import pytest
import torch

from gpt2kit.errors import TokenizerError
from gpt2kit.tokenizer import AddedToken, BatchEncoding, GPT2Tokenizer, GPT2TokenizerFast


def test_fast_is_the_same_class() -> None:
    assert GPT2TokenizerFast is GPT2Tokenizer


def test_add_prefix_space_of_one_call(tokenizer: GPT2Tokenizer) -> None:
    assert tokenizer("Hello world", add_prefix_space=True)["input_ids"] == [18435, 995]
    assert tokenizer("Hello world")["input_ids"] == [15496, 995]
    assert tokenizer(" Hello world", add_prefix_space=True)["input_ids"] == [18435, 995]


def test_words_of_a_split_text_get_a_space_each(tokenizer: GPT2Tokenizer) -> None:
    encoded = tokenizer(
        ["Hello", "world wide", "", "web"], is_split_into_words=True, return_offsets_mapping=True
    )
    assert encoded.tokens() == ["\u0120Hello", "\u0120world", "\u0120wide", "\u0120web"]
    assert encoded.word_ids() == [0, 1, 1, 3]
    assert encoded["offset_mapping"] == [(0, 5), (0, 5), (5, 10), (0, 3)]


def test_ids_are_int64_tensors(tokenizer: GPT2Tokenizer) -> None:
    assert tokenizer("a", return_tensors="pt")["input_ids"].dtype == torch.int64
    assert tokenizer(["", ""], return_tensors="np")["input_ids"].dtype == np.int64
    assert tokenizer("a", return_tensors="pt").to("cpu")["input_ids"].tolist() == [[64]]


def test_text_target_gives_labels(tokenizer: GPT2Tokenizer) -> None:
    encoded = tokenizer("a", text_target="b c", max_target_length=1)
    assert (encoded["input_ids"], encoded["labels"]) == ([64], [65])
    assert tokenizer(text_target="b")["input_ids"] == [65]


def test_empty_batch(tokenizer: GPT2Tokenizer) -> None:
    assert dict(tokenizer([])) == {"input_ids": [], "attention_mask": []}


def test_tokenizer_kwargs_win(tokenizer: GPT2Tokenizer) -> None:
    assert tokenizer("a b c", tokenizer_kwargs={"max_length": 2, "truncation": True})["input_ids"] == [
        64,
        275,
    ]


REFUSED: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((None,), {}, "text"),
    ((b"bytes",), {}, "decode bytes first"),
    ((5,), {}, "must be a str"),
    (([5],), {}, "must be a str"),
    ((["a", None],), {}, "must be a str"),
    (("a",), {"is_split_into_words": True}, "list of str"),
    ((["a", "b"], "c"), {}, "equally many"),
    ((["a", "b"], ["c"]), {}, "equally many"),
    (("a",), {"padding": True}, "padding token"),
    (("a",), {"padding": "longst"}, "'longst'"),
    (("a",), {"truncation": "first"}, "'first'"),
    (("a",), {"max_length": -1}, "max_length is -1"),
    (("a",), {"max_length": 2.5}, "max_length is 2.5"),
    (("a",), {"max_length": True}, "max_length is True"),
    (("a b c",), {"max_length": 2, "stride": -1}, "stride is -1"),
    (("a b c",), {"max_length": 2, "stride": 3, "return_overflowing_tokens": True}, "stride"),
    (("a b c",), {"truncation": "only_second", "max_length": 1}, "pair"),
    (("a b c", "d"), {"truncation": "only_second", "max_length": 1}, "remove 3 tokens"),
    (("a",), {"return_tensors": "tf"}, "'tf'"),
    ((["a", "b c"],), {"return_tensors": "pt"}, "padding=True"),
    (("a",), {"tokenizer_kwargs": {"max_lenght": 3}}, "max_lenght"),
]


@pytest.mark.parametrize(("inputs", "options", "reason"), REFUSED)
def test_refused_with_the_reason(
    tokenizer: GPT2Tokenizer, inputs: tuple[Any, ...], options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(TokenizerError, match=reason):
        tokenizer(*inputs, **options)


def test_padding_is_refused_in_combinations(tokenizer: GPT2Tokenizer) -> None:
    tokenizer.pad_token = tokenizer.eos_token
    with pytest.raises(TokenizerError, match="padding_side"):
        tokenizer(["a", "b c"], padding=True, padding_side="top")
    with pytest.raises(TokenizerError, match="multiple"):
        tokenizer(["a"], padding=True, truncation=True, max_length=5, pad_to_multiple_of=4)
    with pytest.raises(TokenizerError, match="pad_to_multiple_of is 0"):
        tokenizer(["a"], padding=True, pad_to_multiple_of=0)
    with pytest.warns(UserWarning, match="max_length is not used"):
        tokenizer(["a"], padding=True, max_length=5, truncation=False)


def test_too_few_tokens_for_the_special_ones(tokenizer: GPT2Tokenizer) -> None:
    tokenizer.add_bos_token = True
    with pytest.raises(TokenizerError, match="special tokens"):
        tokenizer("a", "b", max_length=1)


def test_long_text_is_warned_of_once(vocab_folder: Any, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = GPT2Tokenizer.from_pretrained(vocab_folder, model_max_length=3)
    for _ in range(2):
        tokenizer("a b c d")
        tokenizer.encode("a b c d")
    assert [record.args for record in caplog.records] == [(4, 3)]


def test_add_bos_token_can_be_switched(tokenizer: GPT2Tokenizer) -> None:
    tokenizer.add_bos_token = True
    assert tokenizer.encode("a") == [50256, 64]
    assert tokenizer("a", "b")["input_ids"] == [50256, 64, 50256, 65]
    tokenizer.bos_token = "b"
    assert tokenizer.encode("a") == [65, 64]
    tokenizer.add_bos_token = False
    tokenizer.add_eos_token = True
    assert tokenizer.encode("a") == [64, 50256]
    assert (tokenizer.add_bos_token, tokenizer.add_eos_token) == (False, True)


def test_what_has_been_encoded_does_not_change_with_the_tokenizer(tokenizer: GPT2Tokenizer) -> None:
    encoded = tokenizer("new token")
    tokenizer.add_tokens(["new token"])
    assert encoded.word_ids() == [0, 1]
    assert encoded.token_to_chars(1) == (3, 9)


def test_special_tokens_mask_of_bare_sequences(tokenizer: GPT2Tokenizer) -> None:
    tokenizer.add_bos_token = True
    assert tokenizer.get_special_tokens_mask([1, 2], [3]) == [1, 0, 0, 1, 0]
    with pytest.raises(TokenizerError, match="token_ids_1"):
        tokenizer.get_special_tokens_mask([1], [2], already_has_special_tokens=True)


@pytest.mark.parametrize("name", ["bos_token", "pad_token"])
@pytest.mark.parametrize("value", [5, ["a"], b"a"])
def test_named_tokens_must_be_text(tokenizer: GPT2Tokenizer, name: str, value: Any) -> None:
    with pytest.raises(TokenizerError, match=name):
        setattr(tokenizer, name, value)
    with pytest.raises(TokenizerError, match=name):
        tokenizer.add_special_tokens({name: value})


def test_other_mistakes_with_tokens(tokenizer: GPT2Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="bos_token_id is 99999"):
        tokenizer.bos_token_id = 99999
    with pytest.raises(TokenizerError, match="'pad'"):
        tokenizer.add_special_tokens({"pad": "x"})
    with pytest.raises(TokenizerError, match="list of tokens"):
        tokenizer.add_special_tokens({"extra_special_tokens": "x"})
    with pytest.raises(TokenizerError, match="single_word"):
        tokenizer.add_tokens([AddedToken("x", single_word=1)])  # type: ignore[arg-type]
    with pytest.raises(TokenizerError, match="no vocabulary"):
        GPT2Tokenizer()
    with pytest.raises(TokenizerError, match="without merges"):
        GPT2Tokenizer("vocab.json")
    with pytest.raises(TokenizerError, match="chat template"):
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}])
    with pytest.raises(TokenizerError, match="response_template"):
        tokenizer.parse_response("x")


def test_a_template_cannot_leave_its_sandbox(tokenizer: GPT2Tokenizer) -> None:
    escapes = [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('no systems here') }}",
        "{% for i in range(999999999) %}{% endfor %}",
        "{{ messages",
    ]
    for template in escapes:
        with pytest.raises(TokenizerError, match="template"):
            tokenizer.apply_chat_template([{"role": "user", "content": "x"}], chat_template=template)


def test_pickle_and_copy(tokenizer: GPT2Tokenizer) -> None:
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    for again in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert again("a [PAD]b")["input_ids"] == tokenizer("a [PAD]b")["input_ids"]
        again.add_tokens(["quite new"])
        assert len(again) == len(tokenizer) + 1
    encoded = tokenizer(["Hello world", "x"], return_tensors="np", padding=True)
    again = pickle.loads(pickle.dumps(encoded))
    assert again.input_ids.tolist() == encoded.input_ids.tolist()
    assert again.word_ids(0) == encoded.word_ids(0)
    assert again.tokens(1) == encoded.tokens(1)


def test_batch_encoding_without_a_tokenizer() -> None:
    batch = BatchEncoding({"input_ids": [[1, 2]]})
    assert batch.input_ids == [[1, 2]]
    assert batch[0:1] == {"input_ids": [[1, 2]]}
    assert not batch.is_fast
    with pytest.raises(TokenizerError, match="not made by a tokenizer"):
        batch.tokens()
    with pytest.raises(AttributeError, match="labels"):
        _ = batch.labels
    with pytest.raises(KeyError):
        batch[0]


def test_arrays_and_lists_agree(tokenizer: GPT2Tokenizer) -> None:
    texts = ["Hello world", "", "x" * 1000, "\u00e9"] * 50
    ids, row_splits = tokenizer.encode_to_arrays(texts)
    assert (ids.dtype, row_splits.dtype) == (np.int32, np.int64)
    rows = [ids[a:b].tolist() for a, b in itertools.pairwise(row_splits)]
    assert rows == tokenizer(texts)["input_ids"]


def test_any_number_of_threads_gives_the_same(tokenizer: GPT2Tokenizer) -> None:
    texts = [f"text number {i} " * 500 for i in range(60)]
    alone = tokenizer.encode_to_arrays(texts, threads=1)
    for threads in (2, 3, 16):
        together = tokenizer.encode_to_arrays(texts, threads=threads)
        assert np.array_equal(alone[0], together[0])
        assert np.array_equal(alone[1], together[1])


def test_eight_callers_at_once(tokenizer: GPT2Tokenizer) -> None:
    texts = [f"caller {i}: the quick brown fox {i * i}" * 20 for i in range(40)]
    expected = tokenizer(texts)["input_ids"]
    results: list[Any] = [None] * 8

    def call(i: int) -> None:
        results[i] = all(tokenizer(texts)["input_ids"] == expected for _ in range(10))

    threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 8
