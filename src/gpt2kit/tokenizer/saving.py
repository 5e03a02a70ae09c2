"""save_pretrained and save_vocabulary: the files that this and other tools load a tokenizer from."""

from __future__ import annotations

import json
import os
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2kit.errors import MissingDependencyError, TokenizerError
from gpt2kit.tokenizer.template import write_template

if TYPE_CHECKING:
    from gpt2kit.tokenizer.gpt2 import GPT2Tokenizer


def save_vocabulary(
    tokenizer: GPT2Tokenizer, directory: str | PathLike[str], filename_prefix: str | None = None
) -> tuple[str, str]:
    """Write vocab.json and merges.txt, without the added tokens, and return their paths.

    Raises TokenizerError if a merge cannot be written as a line of merges.txt.
    """
    folder = _folder(directory)
    base = tokenizer.tokens.base
    lines = ["#version: 0.2"]
    for left, right in base.merges():
        if any(char in token for token in (left, right) for char in " \r\n"):
            raise TokenizerError(
                f"the merge {left!r} + {right!r} has white space in it, which merges.txt cannot hold; "
                "use save_pretrained(legacy_format=False)"
            )
        lines.append(f"{left} {right}")
    vocab_path = folder / _prefixed(filename_prefix, "vocab.json")
    merges_path = folder / _prefixed(filename_prefix, "merges.txt")
    _write(vocab_path, json.dumps(base.vocab(), ensure_ascii=False) + "\n")
    _write(merges_path, "\n".join(lines) + "\n")
    return str(vocab_path), str(merges_path)


def save_pretrained(
    tokenizer: GPT2Tokenizer,
    directory: str | PathLike[str],
    legacy_format: bool | None = None,
    filename_prefix: str | None = None,
    save_jinja_files: bool = True,
    push_to_hub: bool = False,
    repo_id: str | None = None,
    **hub_options: Any,
) -> tuple[str, ...]:
    """Write everything that from_pretrained needs and return the paths.

    push_to_hub also publishes the files in repo_id, by default a repository with the folder's name;
    hub_options as for push_to_hub.

    legacy_format: False writes tokenizer.json and tokenizer_config.json; True writes vocab.json, merges.txt,
    special_tokens_map.json and added_tokens.json instead of the former; None writes all of them.
    save_jinja_files: False puts the chat templates into tokenizer_config.json.
    """
    folder = _folder(directory)

    def path(name: str) -> Path:
        return folder / _prefixed(filename_prefix, name)

    config = _config(tokenizer)
    written: list[str] = [str(path("tokenizer_config.json"))]
    written += save_chat_templates(tokenizer, directory, config, filename_prefix, save_jinja_files)
    _write(path("tokenizer_config.json"), _pretty(config))
    if legacy_format is not True:
        _write(path("tokenizer.json"), to_tokenizer_json(tokenizer))
        written.append(str(path("tokenizer.json")))
    if legacy_format is not False:
        written += save_vocabulary(tokenizer, directory, filename_prefix)
        _write(path("special_tokens_map.json"), _pretty(_special_tokens_map(tokenizer)))
        written.append(str(path("special_tokens_map.json")))
        added = {
            token: id for token, id in tokenizer.added_tokens_encoder.items() if id >= tokenizer.vocab_size
        }
        if added:
            _write(path("added_tokens.json"), _pretty(added))
            written.append(str(path("added_tokens.json")))
    if push_to_hub:
        from gpt2kit.hub import push_files

        files = [os.path.relpath(file, folder) for file in written]
        push_files(folder, files, repo_id, **{"commit_message": "Upload tokenizer", **hub_options})
    return tuple(written)


def push_to_hub(tokenizer: GPT2Tokenizer, repo_id: str, **options: Any) -> Any:
    """Publish what save_pretrained writes, as one commit of a repository that is made if needed.

    options: commit_message, commit_description, private, token, revision (a branch), create_pr, tags. Gives
    huggingface_hub's CommitInfo. Raises HubError.
    """
    from gpt2kit.hub import push_saved

    return push_saved(
        lambda folder: save_pretrained(tokenizer, folder),
        repo_id,
        **{"commit_message": "Upload tokenizer", **options},
    )


def save_chat_templates(
    tokenizer: GPT2Tokenizer,
    directory: str | PathLike[str],
    tokenizer_config: dict[str, Any],
    filename_prefix: str | None = None,
    save_jinja_files: bool = True,
) -> list[str]:
    """Write the chat templates as .jinja files, or into tokenizer_config if those are not wanted.

    tokenizer_config is changed in place. Returns the paths of the files written.
    """
    templates = tokenizer.chat_template
    tokenizer_config.pop("chat_template", None)
    if templates is None:
        return []
    if not save_jinja_files:
        tokenizer_config["chat_template"] = (
            templates
            if isinstance(templates, str)
            else [{"name": name, "template": template} for name, template in templates.items()]
        )
        return []
    folder = _folder(directory)
    written = []
    for name, template in ({"default": templates} if isinstance(templates, str) else templates).items():
        if name == "default":
            path = folder / _prefixed(filename_prefix, "chat_template.jinja")
        else:
            others = folder / _prefixed(filename_prefix, "additional_chat_templates")
            path = others / f"{name}.jinja"
            if path.resolve().parent != others.resolve():
                raise TokenizerError(
                    f"{name!r} cannot be a chat template's name; it is used as a file's name"
                )
            others.mkdir(exist_ok=True)
        _write(path, template)
        written.append(str(path))
    return written


def to_tokenizer_json(tokenizer: GPT2Tokenizer) -> str:
    """Write the tokenizer as a tokenizer.json, which the `tokenizers` library loads."""
    base = tokenizer.tokens.base
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id} | token.as_dict() for id, token in tokenizer.added_tokens_decoder.items()
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level | {"add_prefix_space": tokenizer.add_prefix_space},
        "post_processor": write_template(tokenizer.template),
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": base.ignore_merges,
            "vocab": base.vocab(),
            "merges": base.merges(),
        },
    }
    return json.dumps(document, ensure_ascii=False)


def to_backend(tokenizer: GPT2Tokenizer) -> Any:
    """Build the tokenizers.Tokenizer that does the same."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingDependencyError(
            "backend_tokenizer needs tokenizers: pip install 'gpt2kit[train]'"
        ) from None
    return Tokenizer.from_str(to_tokenizer_json(tokenizer))


def _config(tokenizer: GPT2Tokenizer) -> dict[str, Any]:
    config = dict(tokenizer.config_extras)
    config |= {
        "add_prefix_space": tokenizer.add_prefix_space,
        "added_tokens_decoder": {
            str(id): token.as_dict() for id, token in tokenizer.added_tokens_decoder.items()
        },
        "clean_up_tokenization_spaces": tokenizer.clean_up_tokenization_spaces,
        "errors": tokenizer.errors,
        "model_max_length": tokenizer.model_max_length,
        "padding_side": tokenizer.padding_side,
        "split_special_tokens": tokenizer.split_special_tokens,
        "tokenizer_class": "GPT2Tokenizer",
        "truncation_side": tokenizer.truncation_side,
    }
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        config[name] = tokenizer.special_tokens_map.get(name)
    config |= tokenizer.special_tokens_map
    if tokenizer.add_bos_token:
        config["add_bos_token"] = True
    if tokenizer.add_eos_token:
        config["add_eos_token"] = True
    if tokenizer.extra_special_tokens:
        config["extra_special_tokens"] = tokenizer.extra_special_tokens
    if tokenizer.model_input_names != ["input_ids", "attention_mask"]:
        config["model_input_names"] = tokenizer.model_input_names
    return config


def _special_tokens_map(tokenizer: GPT2Tokenizer) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, token in tokenizer.tokens.named.items():
        plain = not (token.single_word or token.lstrip or token.rstrip or token.normalized)
        result[name] = token.content if plain else token.as_dict()
    return result


def _folder(directory: str | PathLike[str]) -> Path:
    folder = Path(directory)
    if folder.exists() and not folder.is_dir():
        raise TokenizerError(f"{folder} is a file; a tokenizer is saved into a folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _prefixed(prefix: str | None, name: str) -> str:
    return f"{prefix}-{name}" if prefix else name


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)
