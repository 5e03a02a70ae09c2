"""from_pretrained: a tokenizer from a folder, a file or a name on the hub."""

from __future__ import annotations

import inspect
import json
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2kit.errors import TokenizerError
from gpt2kit.tokenizer.added_token import AddedToken, as_added_token
from gpt2kit.tokenizer.vocabulary import read_file

if TYPE_CHECKING:
    from gpt2kit.tokenizer.gpt2 import GPT2Tokenizer

# Files that a tokenizer may need from the hub.
FILE_PATTERNS = [
    "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "additional_chat_templates/*.jinja", "encoder.json",
    "vocab.bpe", "*.tiktoken",
]  # fmt: skip
_HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")
# What callers of Transformers pass out of habit; nothing here is remote code, slow, or needs a proxy of its
# own.
_IGNORED_OPTIONS = (
    "use_fast",
    "trust_remote_code",
    "tokenizer_type",
    "_from_auto",
    "_from_pipeline",
    "config",
)
# Pairs of names under which the vocabulary is found, in order.
_VOCAB_PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
_TOKENIZER_CLASSES = (
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "TokenizersBackend",
    "PreTrainedTokenizerFast",
    None,
)


def load_tokenizer(
    cls: type[GPT2Tokenizer],
    pretrained_model_name_or_path: str | PathLike[str],
    *init_inputs: Any,
    **options: Any,
) -> GPT2Tokenizer:
    """Load a tokenizer.

    The path is a folder with tokenizer.json, or vocab.json and merges.txt, or tiktoken ranks; one such file;
    or a name on the hub, for which revision, subfolder, cache_dir, token, local_files_only and force_download
    hold. Further options are those of GPT2Tokenizer and win over tokenizer_config.json.
    """
    for name in _IGNORED_OPTIONS:
        options.pop(name, None)
    hub_options = {name: options.pop(name) for name in _HUB_OPTIONS if name in options}
    subfolder = options.pop("subfolder", None)
    known = set(inspect.signature(cls.__init__).parameters) - {"self"}
    if "additional_special_tokens" in options:
        options["extra_special_tokens"] = options.pop("additional_special_tokens")
    named = {key: options.pop(key) for key in list(options) if key.endswith("_token") and key not in known}
    unknown = sorted(set(options) - known)
    if unknown:
        raise TypeError(f"from_pretrained got unknown options {unknown}; a tokenizer takes {sorted(known)}")

    name_or_path = pretrained_model_name_or_path
    path = Path(name_or_path)
    if path.is_file():
        tokenizer = cls(path, *init_inputs, **({"name_or_path": str(name_or_path)} | options))
    else:
        folder = _resolve(name_or_path, subfolder, hub_options)
        settings, extras, named_in_file = _read_settings(folder, known)
        files = _vocabulary_files(folder, options)
        settings |= {"name_or_path": str(name_or_path)} | options
        if "tokenizer_file" in files:
            # The tokenizer.json says what is put around a text; only the caller overrides that.
            for name in ("add_bos_token", "add_eos_token"):
                settings[name] = options.get(name)
        try:
            tokenizer = cls(*init_inputs, **(settings | files))
        except TokenizerError as error:
            names = [path.name for path in files.values()]
            if any(name in str(error) for name in names):
                raise
            raise TokenizerError(f"{folder} ({', '.join(names)}): {error}") from None
        tokenizer.config_extras = extras
        named = named_in_file | named
    for key, token in named.items():
        tokenizer.tokens.set_named(key, as_added_token(token, special=True))
    if named:
        tokenizer.tokens.add_missing()
    return tokenizer


def _resolve(name_or_path: str | PathLike[str], subfolder: str | None, hub_options: dict[str, Any]) -> Path:
    path = Path(name_or_path)
    if not path.is_dir():
        from gpt2kit.hub import resolve_folder

        return resolve_folder(
            str(name_or_path), subfolder=subfolder, allow_patterns=FILE_PATTERNS, **hub_options
        )
    return path / subfolder if subfolder else path


def _vocabulary_files(folder: Path, options: dict[str, Any]) -> dict[str, Path]:
    if any(options.get(name) is not None for name in ("vocab", "vocab_file", "tokenizer_file")):
        return {}
    if (folder / "tokenizer.json").is_file():
        return {"tokenizer_file": folder / "tokenizer.json"}
    for vocab, merges in _VOCAB_PAIRS:
        if (folder / vocab).is_file() and (folder / merges).is_file():
            return {"vocab": folder / vocab, "merges": folder / merges}
    ranks = sorted(folder.glob("*.tiktoken")) if folder.is_dir() else []
    if ranks:
        return {"vocab": ranks[0]}
    raise TokenizerError(
        f"{folder} holds no tokenizer; it needs tokenizer.json, or vocab.json and merges.txt, or a "
        ".tiktoken file"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON file that must hold an object; {} if there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} holds a {type(value).__name__}; it must be a JSON object")
    return value


def _read_settings(folder: Path, known: set[str]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Settings for GPT2Tokenizer, keys to keep, and tokens with names of their own, from the small files."""
    path = folder / "tokenizer_config.json"
    config = read_json(path)
    kind = config.pop("tokenizer_class", None)
    if kind not in _TOKENIZER_CLASSES:
        raise TokenizerError(f"{path} is of a {kind}; gpt2kit reads GPT2Tokenizer")
    for name in (
        "vocab",
        "merges",
        "vocab_file",
        "merges_file",
        "tokenizer_file",
        "name_or_path",
        "auto_map",
    ):
        config.pop(name, None)  # a file must not point at other files or at code
    if "added_tokens_decoder" in config:
        config["added_tokens_decoder"] = _added_tokens(path, config["added_tokens_decoder"])
    else:
        special = read_json(folder / "special_tokens_map.json")
        config |= special
        added = read_json(folder / "added_tokens.json")
        if added:
            config["added_tokens_decoder"] = _legacy_added_tokens(
                folder / "added_tokens.json", added, special
            )
    if not config.get("extra_special_tokens") and config.get("additional_special_tokens"):
        config["extra_special_tokens"] = config["additional_special_tokens"]
    config.pop("additional_special_tokens", None)
    named = {
        key: config.pop(key)
        for key in list(config)
        if key.endswith("_token") and key not in known and isinstance(config[key], (str, dict))
    }
    template = _chat_templates(folder, config.pop("chat_template", None))
    if template is not None:
        config["chat_template"] = template
    _check_types(path, config)
    settings = {key: value for key, value in config.items() if key in known}
    return settings, {key: value for key, value in config.items() if key not in known}, named


def _added_tokens(path: Path, value: Any) -> dict[int, AddedToken]:
    if not isinstance(value, dict) or not all(str(id).isdecimal() and str(id).isascii() for id in value):
        raise TokenizerError(f"added_tokens_decoder in {path} must map token ids to tokens")
    return {int(id): as_added_token(token) for id, token in value.items()}


def _legacy_added_tokens(path: Path, added: dict[str, Any], special: dict[str, Any]) -> dict[int, AddedToken]:
    names = {
        str(token["content"]) if isinstance(token, dict) and "content" in token else str(token)
        for token in special.values()
    }
    result = {}
    for token, id in added.items():
        if not isinstance(id, int) or isinstance(id, bool):
            raise TokenizerError(f"{path}: the id of {token!r} is {id!r}, not an integer")
        result[id] = AddedToken(token, special=token in names)
    return result


def _chat_templates(folder: Path, from_config: Any) -> str | dict[str, str] | None:
    """Files beside the config come before what stands in it."""
    templates = {}
    if (folder / "chat_template.jinja").is_file():
        templates["default"] = read_file(folder / "chat_template.jinja").decode("utf-8", "replace")
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        templates[path.stem] = read_file(path).decode("utf-8", "replace")
    if templates:
        return templates["default"] if list(templates) == ["default"] else templates
    if isinstance(from_config, list):
        try:
            return {str(item["name"]): str(item["template"]) for item in from_config}
        except (TypeError, KeyError):
            raise TokenizerError(
                f"chat_template in {folder} must be a str or a list of name and template"
            ) from None
    if from_config is not None and not isinstance(from_config, (str, dict)):
        raise TokenizerError(f"chat_template in {folder} is {from_config!r}; it must be a str")
    return from_config


_TYPES: dict[str, tuple[type, ...]] = {
    "errors": (str,),
    "model_max_length": (int, float, type(None)),
    "padding_side": (str, type(None)),
    "truncation_side": (str, type(None)),
    "add_prefix_space": (bool, type(None)),
    "add_bos_token": (bool, type(None)),
    "add_eos_token": (bool, type(None)),
    "split_special_tokens": (bool,),
    "clean_up_tokenization_spaces": (bool,),
    "model_input_names": (list,),
}


def _check_types(path: Path, config: dict[str, Any]) -> None:
    for key, types in _TYPES.items():
        if key in config and not isinstance(config[key], types):
            allowed = " or ".join("null" if t is type(None) else t.__name__ for t in types)
            raise TokenizerError(f"{key} in {path} is {config[key]!r}; it must be {allowed}")
    if isinstance(config.get("model_max_length"), float):
        config["model_max_length"] = int(config["model_max_length"])
