"""Damaged and hostile vocabularies give a TokenizerError that names the file and what is wrong."""

from __future__ import annotations

import json
import random
import resource
import time
from pathlib import Path
from typing import Any

import pytest

from gpt2kit.errors import TokenizerError
from gpt2kit.tokenizer import GPT2Tokenizer

GOOD_VOCAB = b'{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}'
GOOD_MERGES = b"#version: 0.2\na b\n"


def load(folder: Path, **files: bytes) -> GPT2Tokenizer:
    for name, data in files.items():
        (folder / name.replace("_json", ".json").replace("_txt", ".txt")).write_bytes(data)
    return GPT2Tokenizer.from_pretrained(folder)


VOCABS: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "expected '{'"),
    "empty object": (b"{}", "no tokens"),
    "array": (b'["a"]', "expected '{'"),
    "truncated in a string": (GOOD_VOCAB[:3], "expected '\"', but the file ends"),
    "truncated after a colon": (b'{"a":', "not an integer"),
    "truncated after a value": (b'{"a": 0', "not an integer|expected"),
    "trailing comma": (b'{"a": 0,}', "expected '\"'"),
    "trailing data": (GOOD_VOCAB + b"{}", "after the end"),
    "missing colon": (b'{"a" 0}', "expected ':'"),
    "float id": (b'{"a": 1.0}', "'1.0', not an integer"),
    "exponent id": (b'{"a": 1e3}', "'1e3', not an integer"),
    "negative id": (b'{"a": -1}', "'-1', not an integer"),
    "string id": (b'{"a": "0"}', "not an integer"),
    "null id": (b'{"a": null}', "not an integer"),
    "boolean id": (b'{"a": true}', "not an integer"),
    "id with leading zero": (b'{"a": 01}', "not an integer"),
    "huge id": (b'{"a": 4194304}', "from 0 to 4194303"),
    "id of 2^31": (b'{"a": 2147483648}', "from 0 to"),
    "id of 2^64": (b'{"a": 18446744073709551616}', "from 0 to"),
    "id of 500 digits": (b'{"a": ' + b"9" * 500 + b"}", "from 0 to"),
    "nested value": (b'{"a": {"b": 0}}', "not an integer"),
    "key twice": (b'{"a": 0, "b": 1, "a": 2}', "token 'a' appears twice"),
    "key twice, spelt with an escape": (b'{"a": 0, "\\u0061": 1}', "token 'a' appears twice"),
    "id twice": (b'{"a": 0, "b": 0}', "tokens 'a' and 'b' have the same id 0"),
    "lone surrogate": (b'{"\\ud800": 0}', "surrogate"),
    "surrogates the wrong way round": (b'{"\\udc00\\ud800": 0}', "surrogate"),
    "unknown escape": (b'{"\\x": 0}', "unknown escape"),
    "bad hex": (b'{"\\u00g0": 0}', "escape"),
    "unfinished escape": (b'{"\\u00', "unfinished"),
    "control character": (b'{"a\nb": 0}', "control character"),
    "NUL in a token": (b'{"a\x00": 0}', "control character"),
    "not UTF-8": (b'{"\xff": 0}', "byte 2 is not UTF-8"),
    "overlong UTF-8": (b'{"\xc0\x80": 0}', "not UTF-8"),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD_VOCAB, "expected '{'"),
    "UTF-16": (GOOD_VOCAB.decode().encode("utf-16"), "not UTF-8"),
    "gzip": (b"\x1f\x8b\x08\x00", "not UTF-8"),
    "pickle": (b"\x80\x04\x95", "not UTF-8"),
    "NaN": (b'{"a": NaN}', "not an integer"),
    "single quotes": (b"{'a': 0}", "expected '\"'"),
}


@pytest.mark.parametrize("name", VOCABS)
def test_vocab_json(tmp_path: Path, name: str) -> None:
    data, reason = VOCABS[name]
    with pytest.raises(TokenizerError, match=reason) as caught:
        load(tmp_path, vocab_json=data, merges_txt=GOOD_MERGES)
    assert "vocab.json" in str(caught.value)


MERGES: dict[str, tuple[bytes, str]] = {
    "one token": (b"#version: 0.2\na\n", "line 2 of the merges is 'a'"),
    "three tokens": (b"a b c\n", "not two tokens"),
    "two spaces": (b"a  b\n", "not two tokens"),
    "leading space": (b" a b\n", "not two tokens"),
    "trailing space": (b"a b \n", "not two tokens"),
    "tab": (b"a\tb\n", "not two tokens"),
    "left unknown": (b"x b\n", "needs the token 'x'"),
    "right unknown": (b"a x\n", "needs the token 'x'"),
    "result unknown": (b"b a\n", "needs the token 'ba'"),
    "not UTF-8": (b"a \xff\n", "not UTF-8"),
    "binary": (bytes(range(256)), "merges|UTF-8"),
    "json": (b'["a b"]', "needs the token"),
}


@pytest.mark.parametrize("name", MERGES)
def test_merges_txt(tmp_path: Path, name: str) -> None:
    data, reason = MERGES[name]
    with pytest.raises(TokenizerError, match=reason) as caught:
        load(tmp_path, vocab_json=GOOD_VOCAB, merges_txt=data)
    assert "merges.txt" in str(caught.value)


@pytest.mark.parametrize("merges", [b"a b", b"a b\r\n", b"\n\na b\n\n", b"#version: 0.2\r\na b\r\n"])
def test_harmless_forms_of_merges(tmp_path: Path, merges: bytes) -> None:
    assert load(tmp_path, vocab_json=GOOD_VOCAB, merges_txt=merges).encode("ab") == [2]


def document(**changes: Any) -> bytes:
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}, "merges": [["a", "b"]]}
    base: dict[str, Any] = {
        "added_tokens": [], "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space":
        False}, "post_processor": None, "decoder": {"type": "ByteLevel"}, "model": model |
        changes.pop("model", {}), }  # fmt: skip
    return json.dumps(base | changes).encode()


DOCUMENTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "expected '{'"),
    "no model": (b"{}", "no \"model\""),
    "model is null": (b'{"model": null}', "expected '{'"),
    "model is empty": (b'{"model": {}}', "no \"model\""),
    "two models": (b'{"model": {}, "model": {}}', "second"),
    "two vocabs": (b'{"model": {"vocab": {}, "vocab": {}}}', "a second 'vocab'"),
    "deep nesting": (b'{"x": ' + b"[" * 100_000, "nested deeper"),
    "deep nesting closed": (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper"),
    "unigram": (document(model={"type": "Unigram"}), "'Unigram'"),
    "vocab is an array": (document(model={"vocab": [["a", 0.5]]}), "expected '{'"),
    "merges of three": (document(model={"merges": [["a", "b", "c"]]}), "expected ']'"),
    "merge without a space": (document(model={"merges": ["ab"]}), "merge 0 is 'ab'"),
    "merges is an object": (document(model={"merges": {}}), "expected '\\['"),
    "dropout": (document(model={"dropout": 0.5}), "dropout"),
    "prefix": (document(model={"continuing_subword_prefix": "##"}), "continuing_subword_prefix"),
    "byte fallback": (document(model={"byte_fallback": True}), "byte_fallback"),
    "fused unk": (document(model={"fuse_unk": True}), "fuse_unk"),
    "normalizer": (document(normalizer={"type": "NFC"}), "normalizer"),
    "other splitting": (document(pre_tokenizer={"type": "Metaspace"}), "not ByteLevel"),
    "no splitting": (document(pre_tokenizer=None), "not ByteLevel"),
    "ByteLevel without pattern": (document(pre_tokenizer={"type": "ByteLevel", "use_regex": False}),
    "use_regex"), "other decoder": (document(decoder={"type": "Metaspace"}), "decoder"),
    "other post_processor": (document(post_processor={"type": "BertProcessing"}), "'BertProcessing'"),
    "broken template": (document(post_processor={"type": "TemplateProcessing"}), "template"),
    "template with a token that there is not": (
        document(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id":
                0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id":
                0}}], "special_tokens": {"x": {"id": "x", "ids": [999999999], "tokens": ["x"]}},
            }
        ),
        "'x' with id 999999999",
    ),
    "added token without id": (document(added_tokens=[{"content": "x"}]), "no integer id"),
    "added token with a wrong id": (document(added_tokens=[{"content": "x", "id": 1}]), "is the token 'b'"),
    "added token at another id": (document(added_tokens=[{"content": "a", "id": 7}]), "has it at 0"),
    "added token with a huge id": (document(added_tokens=[{"content": "x", "id": 2**40}]), "ids are from 0"),
    "added token with a bad flag": (document(added_tokens=[{"content": "x", "id": 9, "lstrip": 1}]), "strip"),
    "trailing data": (document() + b"x", "after the end"),
}  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
def test_tokenizer_json(tmp_path: Path, name: str) -> None:
    data, reason = DOCUMENTS[name]
    start = time.perf_counter()
    with pytest.raises(TokenizerError, match=reason) as caught:
        load(tmp_path, tokenizer_json=data)
    assert "tokenizer.json" in str(caught.value)
    assert time.perf_counter() - start < 1


CONFIGS: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"{", "not JSON"),
    "array": (b"[]", "must be a JSON object"),
    "deep": (b'{"x": ' + b"[" * 100_000, "not JSON"),
    "other class": (b'{"tokenizer_class": "LlamaTokenizer"}', "LlamaTokenizer"),
    "side": (b'{"padding_side": "up"}', "'up'"),
    "length": (b'{"model_max_length": "long"}', "model_max_length"),
    "boolean": (b'{"add_prefix_space": "yes"}', "add_prefix_space"),
    "token": (b'{"bos_token": 5}', "bos_token"),
    "added_tokens_decoder": (b'{"added_tokens_decoder": []}', "added_tokens_decoder"),
    "added_tokens_decoder key": (b'{"added_tokens_decoder": {"x": "y"}}', "added_tokens_decoder"),
    "errors": (b'{"errors": 3}', "errors"),
    "unknown errors": (b'{"errors": "shout"}', "errors"),
    "template": (b'{"chat_template": 3}', "chat_template"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_tokenizer_config(tmp_path: Path, name: str) -> None:
    data, reason = CONFIGS[name]
    with pytest.raises(TokenizerError, match=reason):
        load(tmp_path, vocab_json=GOOD_VOCAB, merges_txt=GOOD_MERGES, tokenizer_config_json=data)


def test_config_cannot_point_at_other_files(tmp_path: Path) -> None:
    config = b'{"vocab_file": "/etc/passwd", "tokenizer_file": "/etc/passwd", "auto_map": {"x": "y.Z"}}'
    tokenizer = load(tmp_path, vocab_json=GOOD_VOCAB, merges_txt=GOOD_MERGES, tokenizer_config_json=config)
    assert tokenizer.encode("ab") == [2]


def test_harmless_keys_of_a_config_are_kept(tmp_path: Path) -> None:
    config = b'{"some_tool": {"x": 1}, "backend": "tokenizers"}'
    tokenizer = load(tmp_path, vocab_json=GOOD_VOCAB, merges_txt=GOOD_MERGES, tokenizer_config_json=config)
    tokenizer.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert saved["some_tool"] == {"x": 1}


@pytest.mark.parametrize("line", [b"YQ==", b"YQ== x", b"!!! 0", b"YQ== 0 1", b"YQ== -1", b"\xff\xff 0"])
def test_tiktoken_ranks(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "x.tiktoken").write_bytes(b"Yg== 1\n" + line + b"\n")
    with pytest.raises(TokenizerError, match=r"x\.tiktoken"):
        GPT2Tokenizer.from_pretrained(tmp_path)


def test_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="holds no tokenizer"):
        GPT2Tokenizer.from_pretrained(tmp_path)


def test_unknown_options_are_refused(vocab_folder: Path) -> None:
    with pytest.raises(TypeError, match="add_prefix_spaces"):
        GPT2Tokenizer.from_pretrained(vocab_folder, add_prefix_spaces=True)


def test_random_damage_never_crashes(vocab_folder: Path) -> None:
    """Bit flips, cuts and splices: a TokenizerError, or a tokenizer that works; never much memory."""
    from gpt2kit.tokenizer.vocabulary import make_vocabulary

    rng = random.Random(11)
    vocab = (vocab_folder / "vocab.json").read_bytes()[:20_000].rpartition(b",")[0] + b"}"
    merges = b"\n".join((vocab_folder / "merges.txt").read_bytes().split(b"\n")[:300])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = vocab_folder / "damaged.json"
    merges_path = vocab_folder / "damaged.txt"
    for _ in range(400):
        data = bytearray(rng.choice([vocab, merges]))
        is_vocab = data[:1] == b"{"
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[at] ^= 1 << rng.randrange(8)
                case 1:
                    del data[at:]
                case 2:
                    data[at:at] = data[rng.randrange(len(data)) :][:50]
                case _:
                    data[at : at + 1] = b"99999999999"
            data = data or bytearray(b"x")
        path.write_bytes(data if is_vocab else vocab)
        merges_path.write_bytes(merges if is_vocab else data)
        try:
            file = make_vocabulary(path, merges_path)
        except TokenizerError:
            continue
        file.bpe.with_added_tokens([], 0).encode("some text", False, False)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 * 1024  # kilobytes
