"""Files written here are read by Transformers and tokenizers, and theirs here, with the same behaviour."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

from gpt2_vocabulary import gpt2_ranks, tiktoken_peer, write_gpt2_vocabulary
from gpt2kit.tokenizer import AddedToken, AutoTokenizer, GPT2Tokenizer

SAMPLES = ["Hello  world<|endoftext|>x\n\n y", "<a> don't [PAD]2", "\u00e9\u00e9 \U0001f600", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gpt2_vocabulary(tmp_path_factory.mktemp("vocabulary"))


def behaviour(tokenizer: Any) -> list[Any]:
    encoded = [
        tokenizer(s, s + "!", return_offsets_mapping=True, return_token_type_ids=True) for s in SAMPLES
    ]
    single = [tokenizer(s, return_special_tokens_mask=True) for s in SAMPLES]
    return [
        [dict(e) for e in (*encoded, *single)],
        [tokenizer.decode(e["input_ids"], skip_special_tokens=True) for e in encoded],
        tokenizer.added_tokens_encoder,
        tokenizer.special_tokens_map,
        tokenizer.extra_special_tokens,
        tokenizer.padding_side,
        tokenizer.model_max_length,
        getattr(tokenizer, "errors", "replace"),  # theirs keeps it in init_kwargs only
    ]


def changed(cls: Any, folder: Path, added_token: Any) -> Any:
    tokenizer = cls.from_pretrained(
        folder, add_prefix_space=True, add_bos_token=True, padding_side="left", model_max_length=77
    )
    tokenizer.add_special_tokens({"pad_token": "[PAD]", "extra_special_tokens": ["<a>"]})
    tokenizer.add_tokens([added_token("don't", single_word=True, rstrip=True)])
    return tokenizer


@pytest.mark.parametrize("legacy_format", [None, False, True])
def test_saved_here_and_loaded_here(folder: Path, tmp_path: Path, legacy_format: bool | None) -> None:
    tokenizer = changed(GPT2Tokenizer, folder, AddedToken)
    paths = tokenizer.save_pretrained(tmp_path, legacy_format=legacy_format)
    assert sorted(Path(path).name for path in paths) == sorted(path.name for path in tmp_path.iterdir())
    again = GPT2Tokenizer.from_pretrained(tmp_path)
    assert behaviour(again) == behaviour(tokenizer)
    again.save_pretrained(tmp_path / "again", legacy_format=legacy_format)
    for path in paths:
        name = Path(path).name
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_saved_here_and_loaded_by_transformers(folder: Path, tmp_path: Path) -> None:
    tokenizer = changed(GPT2Tokenizer, folder, AddedToken)
    tokenizer.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert behaviour(theirs) == behaviour(tokenizer)


def test_saved_by_transformers_and_loaded_here(folder: Path, tmp_path: Path) -> None:
    theirs = changed(transformers.GPT2Tokenizer, folder, transformers.AddedToken)
    theirs.save_pretrained(tmp_path)
    assert behaviour(AutoTokenizer.from_pretrained(tmp_path)) == behaviour(theirs)


def test_save_vocabulary_writes_and_returns_both_files(folder: Path, tmp_path: Path) -> None:
    tokenizer = GPT2Tokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["not saved"])
    paths = tokenizer.save_vocabulary(str(tmp_path), filename_prefix="x")
    assert paths == (str(tmp_path / "x-vocab.json"), str(tmp_path / "x-merges.txt"))
    assert json.loads(Path(paths[0]).read_text()) == json.loads((folder / "vocab.json").read_text())
    assert Path(paths[1]).read_text() == (folder / "merges.txt").read_text()
    again = transformers.GPT2Tokenizer(vocab=paths[0], merges=paths[1])
    assert again(SAMPLES[0])["input_ids"] == tokenizer(SAMPLES[0])["input_ids"]


def test_backend_tokenizer(folder: Path) -> None:
    tokenizer = changed(GPT2Tokenizer, folder, AddedToken)
    backend = tokenizer.backend_tokenizer
    assert isinstance(backend, tokenizers.Tokenizer)
    for sample in SAMPLES:
        assert backend.encode(sample).ids == tokenizer(sample)["input_ids"]


@pytest.mark.parametrize("trim_offsets", [False, True])
@pytest.mark.parametrize("keep_first", [False, True])
def test_byte_level_post_processor(
    folder: Path, tmp_path: Path, trim_offsets: bool, keep_first: bool
) -> None:
    backend = GPT2Tokenizer.from_pretrained(folder).backend_tokenizer
    backend.post_processor = tokenizers.processors.ByteLevel(
        trim_offsets=trim_offsets, add_prefix_space=keep_first
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    ours = GPT2Tokenizer.from_pretrained(tmp_path)
    for sample in ["  Hello world \u3000 x", " a", "\n\n b  "]:
        theirs = backend.encode(sample)
        encoded = ours(sample, return_offsets_mapping=True)
        assert (encoded["input_ids"], encoded["offset_mapping"]) == (theirs.ids, theirs.offsets)
    again = tmp_path / "again"
    ours.save_pretrained(again)
    theirs = transformers.AutoTokenizer.from_pretrained(again)
    encoded = ours(" a  b", return_offsets_mapping=True)
    assert theirs(" a  b", return_offsets_mapping=True)["offset_mapping"] == encoded["offset_mapping"]


@pytest.mark.parametrize("as_folder", [False, True])
def test_tiktoken_ranks(folder: Path, tmp_path: Path, as_folder: bool) -> None:
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in gpt2_ranks().items()]
    path = tmp_path / "gpt2.tiktoken"
    path.write_text("\n".join(lines) + "\n")
    tokenizer = GPT2Tokenizer.from_pretrained(tmp_path if as_folder else path)
    assert tokenizer.eos_token_id == 50256
    texts = [Path(__file__).read_text(encoding="utf-8"), *SAMPLES]
    assert tokenizer(texts)["input_ids"] == tiktoken_peer().encode_batch(texts, allowed_special="all")
    tokenizer.save_pretrained(tmp_path / "saved")
    again = GPT2Tokenizer.from_pretrained(tmp_path / "saved")
    assert again(texts)["input_ids"] == tokenizer(texts)["input_ids"]


def test_training_a_new_vocabulary(folder: Path, tmp_path: Path) -> None:
    texts = [Path(__file__).read_text(encoding="utf-8")] * 3
    ours = GPT2Tokenizer.from_pretrained(folder).train_new_from_iterator(
        texts, 400, show_progress=False, new_special_tokens=["<new>"]
    )
    theirs = transformers.GPT2Tokenizer.from_pretrained(folder).train_new_from_iterator(
        texts, 400, show_progress=False, new_special_tokens=["<new>"]
    )
    assert len(ours) == 400
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.extra_special_tokens == ["<new>"]
    assert ours.eos_token == "<|endoftext|>"
    sample = texts[0] + "<new><|endoftext|>"
    assert ours(sample)["input_ids"] == theirs(sample)["input_ids"]
    assert ours.decode(ours.encode(sample)) == sample


TEMPLATE = """{% for message in messages %}{{ '<' + message['role'] + '>' }}
{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] | trim }}{% endgeneration %}
{% else %}{{ message['content'] | trim }}{% endif %}{{ eos_token }}{% endfor %}
{% if tools %}{{ tools | tojson }}{% endif %}{% if documents %}{{ documents[0].title }}{% endif %}
{% if add_generation_prompt %}<assistant>{{ note }}{% endif %}"""
CHAT = [
    {"role": "user", "content": " Hello <b>\U0001f600</b> "},
    {"role": "assistant", "content": "Good  day, I'm here. "},
    {"role": "user", "content": "x"},
    {"role": "assistant", "content": "No way "},
]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tokenize": False},
        {"add_generation_prompt": True, "tokenize": False, "note": "extra"},
        {"return_dict": False},
        {"continue_final_message": True, "tokenize": False},
        {"tools": [{"name": "f", "parameters": {"x": "<int>"}}], "tokenize": False},
        {"documents": [{"title": "T", "text": "y"}], "tokenize": False},
        {"return_assistant_tokens_mask": True},
        {"return_assistant_tokens_mask": True, "return_tensors": "np"},
        {"max_length": 7, "truncation": True},
        {"chat_template": "{{ messages[0].content }}", "tokenize": False},
    ],
)
@pytest.mark.parametrize("batch", [False, True])
def test_chat_templates(folder: Path, options: dict[str, Any], batch: bool) -> None:
    results = []
    for cls in (GPT2Tokenizer, transformers.GPT2Tokenizer):
        tokenizer = cls.from_pretrained(folder, chat_template=TEMPLATE)
        if batch and "return_tensors" in options:
            chats: Any = [CHAT, CHAT]
        else:
            chats = [CHAT, CHAT[:2]] if batch else CHAT
        result = tokenizer.apply_chat_template(chats, **options)
        if not isinstance(result, (str, list)):
            result = {
                key: value.tolist() if hasattr(value, "tolist") else value for key, value in result.items()
            }
        results.append(result)
    assert results[0] == results[1]


@pytest.mark.parametrize("jinja_files", [True, False])
def test_chat_templates_are_saved(folder: Path, tmp_path: Path, jinja_files: bool) -> None:
    templates = {"default": TEMPLATE, "short": "{{ messages[0].content }}"}
    tokenizer = GPT2Tokenizer.from_pretrained(folder, chat_template=templates)
    tokenizer.save_pretrained(tmp_path, save_jinja_files=jinja_files)
    assert GPT2Tokenizer.from_pretrained(tmp_path).chat_template == templates
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).chat_template == templates
