"""GPT2Config: the shape and the switches of a GPT-2. What a setting may be stands in fields.py."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from gpt2kit.config.bitsandbytes import BitsAndBytesConfig
from gpt2kit.config.fields import (
    FIELDS,
    GENERATION_KEYS,
    MAX_LABELS,
    MAX_PARAMETERS,
    OPTIONAL_CHECKS,
    count_parameters,
    refuse,
)
from gpt2kit.config.hparams import CONFIG_NAME, HPARAMS_NAME, config_file, settings_of_hparams
from gpt2kit.config.incoming import ALIASES, accept, override, refuse_unused
from gpt2kit.config.json_file import read_json_object, to_json_text, write_json
from gpt2kit.config.outgoing import every_setting, needed_settings, settings_of_file
from gpt2kit.config.packed import check_packed_settings, is_packed
from gpt2kit.errors import ConfigError

# OpenAI's four sizes.
PRESETS: dict[str, dict[str, int]] = {
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768},  # 124M parameters
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},  # 355M
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280},  # 774M
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600},  # 1558M
}


class GPT2Config:
    """The settings of one GPT-2, with Transformers' names, defaults and file format.

    Every setting is a keyword and an attribute; assigning to one checks it. `hidden_size`,
    `max_position_embeddings`, `num_attention_heads` and `num_hidden_layers` are second names of `n_embd`,
    `n_positions`, `n_head` and `n_layer`. Keywords that are not settings become attributes and are written
    back to files, except settings of generation (they belong in generation_config.json) and keys that name
    code (`auto_map`, `trust_remote_code`, a leading underscore, ...), which are dropped.

    `dtype` (also `torch_dtype`) is kept as a name such as "float16"; a torch.dtype may be given.

    Raises ConfigError for a wrong type, a value out of range or settings that contradict each other.

    >>> GPT2Config(n_layer=2, n_head=2, hidden_size=8).n_embd
    8
    """

    model_type = "gpt2"
    attribute_map: ClassVar[dict[str, str]] = ALIASES
    keys_to_ignore_at_inference = ("past_key_values",)

    transformers_version: str | None
    architectures: list[str] | None
    output_hidden_states: bool | None
    return_dict: bool | None
    dtype: str | None
    chunk_size_feed_forward: int
    is_encoder_decoder: bool
    id2label: dict[int, Any]
    label2id: dict[str, Any] | None
    problem_type: str | None
    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int | None
    activation_function: str
    resid_pdrop: float
    embd_pdrop: float
    attn_pdrop: float
    layer_norm_epsilon: float
    initializer_range: float
    summary_type: str
    summary_use_proj: bool
    summary_activation: str | None
    summary_proj_to_labels: bool
    summary_first_dropout: float
    scale_attn_weights: bool
    use_cache: bool
    bos_token_id: int | None
    eos_token_id: int | list[int] | None
    pad_token_id: int | None
    scale_attn_by_inverse_layer_idx: bool
    reorder_and_upcast_attn: bool
    add_cross_attention: bool
    tie_word_embeddings: bool
    pruned_heads: dict[int, list[int]] | None = (
        None  # by layer; an attribute of its own once heads are pruned
    )
    hidden_size: int
    max_position_embeddings: int
    num_attention_heads: int
    num_hidden_layers: int

    def __init__(self, /, **settings: Any) -> None:
        self._name_or_path = ""
        self._output_attentions: bool | None = False
        self._attn_implementation: str | None = None
        self._file_keys: frozenset[str] | None = None  # the keys of the file this was read from
        given = accept(settings)
        for name, field in FIELDS.items():
            setattr(self, name, given.pop(name, field.default))
        num_labels = given.pop("num_labels", None)
        if num_labels is not None or self.id2label is None:
            self.num_labels = 2 if num_labels is None else num_labels
        for name, value in given.items():
            setattr(self, name, value)
        self.validate()

    def __setattr__(self, name: str, value: Any) -> None:
        name = self.attribute_map.get(name, name)
        if name in FIELDS:
            value = FIELDS[name].check(name, value)
        elif name in OPTIONAL_CHECKS:
            value = OPTIONAL_CHECKS[name](name, value)
        elif name == "quantization_config":
            value = _quantization_config(value)
        elif isinstance(known := getattr(type(self), name, None), property):
            if known.fset is None:
                raise ConfigError(f"{name} is computed from other settings and cannot be set")
        elif known is not None:
            raise ConfigError(f"{name!r} is the name of a method or constant of GPT2Config, not of a setting")
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        # Only reached when there is no such attribute: the second names, or a mistake.
        if name in type(self).attribute_map:
            return self.__dict__[type(self).attribute_map[name]]
        raise AttributeError(f"GPT2Config has no setting {name!r}")

    @property
    def name_or_path(self) -> str:
        """The name or path that the model was loaded from, or ""."""
        return self._name_or_path

    @name_or_path.setter
    def name_or_path(self, value: str | os.PathLike[str]) -> None:
        if not isinstance(value, (str, os.PathLike)):
            raise refuse("name_or_path", value, "a string or a path")
        self._name_or_path = os.fspath(value)

    @property
    def num_labels(self) -> int:
        """The number of labels of a classification head: len(id2label)."""
        return len(self.id2label) if self.id2label is not None else 0

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        if type(count) is not int or not 0 <= count <= MAX_LABELS:
            raise refuse("num_labels", count, f"an integer from 0 to {MAX_LABELS}")
        if self.id2label is None or self.num_labels != count:
            self.id2label = {i: f"LABEL_{i}" for i in range(count)}
            self.label2id = {f"LABEL_{i}": i for i in range(count)}

    @property
    def torch_dtype(self) -> str | None:
        """Transformers 4's name of `dtype`."""
        return self.dtype

    @torch_dtype.setter
    def torch_dtype(self, value: Any) -> None:
        self.dtype = value

    @property
    def use_return_dict(self) -> bool | None:
        """Transformers 4's name of `return_dict`."""
        return self.return_dict

    @property
    def attn_implementation(self) -> str | None:
        """The attention backend ("eager", "sdpa", ...), or None for the default. Never read from files."""
        return self._attn_implementation

    @attn_implementation.setter
    def attn_implementation(self, value: str | None) -> None:
        if value is not None and (type(value) is not str or "/" in value or ":" in value):
            raise refuse(
                "attn_implementation", value, "the name of a built-in backend; kernels are not fetched"
            )
        self._attn_implementation = value

    @property
    def output_attentions(self) -> bool | None:
        """Whether models return attention weights, which every backend can."""
        return self._output_attentions

    @output_attentions.setter
    def output_attentions(self, value: bool | None) -> None:
        self._output_attentions = FIELDS["output_hidden_states"].check("output_attentions", value)

    def validate(self) -> None:
        """Check what no single setting can tell: divisibility, size, contradictions. Raises ConfigError."""
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"n_embd is {self.n_embd} and n_head is {self.n_head}; n_embd must be a multiple of n_head"
            )
        if (count := self.num_parameters()) > MAX_PARAMETERS:
            raise ConfigError(f"these settings ask for {count} parameters; the limit is {MAX_PARAMETERS}")
        if self.problem_type == "single_label_classification" and self.num_labels == 1:
            raise ConfigError(
                "problem_type is 'single_label_classification' with num_labels 1; use num_labels 2 or "
                "problem_type 'regression'"
            )
        for layer, heads in (self.pruned_heads or {}).items():
            if not 0 <= layer < self.n_layer or not all(0 <= head < self.n_head for head in heads):
                raise refuse(
                    f"pruned_heads[{layer}]",
                    heads,
                    f"layers 0 to {self.n_layer - 1}, heads 0 to {self.n_head - 1}",
                )
            if len(heads) == self.n_head:
                raise refuse(f"pruned_heads[{layer}]", heads, "some of the layer's heads; leave at least one")

    def kept_heads(self, layer_idx: int) -> list[int]:
        """Give the heads that a layer's self-attention still has, counted as before any pruning."""
        pruned = set((self.pruned_heads or {}).get(layer_idx, ()))
        return [head for head in range(self.n_head) if head not in pruned]

    def num_parameters(self) -> int:
        """Count the parameters of embeddings, blocks and last norm; cross-attention and heads left out."""
        inner = self.n_inner if self.n_inner is not None else 4 * self.n_embd
        return count_parameters(self.vocab_size, self.n_positions, self.n_embd, self.n_layer, inner)

    @classmethod
    def preset(cls, name: str, **settings: Any) -> GPT2Config:
        """Build the configuration of one of OpenAI's sizes, with some settings changed.

        `name` is gpt2, gpt2-medium, gpt2-large or gpt2-xl, with or without `openai-community/`.

        >>> GPT2Config.preset("gpt2-xl").n_layer
        48
        """
        shape = PRESETS.get(name.removeprefix("openai-community/"))
        if shape is None:
            raise refuse("preset", name, ", ".join(PRESETS))
        for alias in settings.keys() & cls.attribute_map.keys():
            settings[cls.attribute_map[alias]] = settings.pop(alias)
        return cls(**{**shape, **settings})

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str | None = None,
        subfolder: str | None = None,
        return_unused_kwargs: bool = False,
        trust_remote_code: bool | None = None,
        **settings: Any,
    ) -> Any:
        """Read a configuration from a folder, a JSON file or a model of the hub, with some settings changed.

        The file is config.json, or the hparams.json of OpenAI's own checkpoints.
        Gives a GPT2Config, or (GPT2Config, unused keywords) with `return_unused_kwargs`; without it a keyword
        that is no setting of the configuration is refused. `trust_remote_code` changes nothing: no code is
        ever fetched. Raises ConfigError, or HubError when a name cannot be resolved.
        """
        path = Path(pretrained_model_name_or_path)
        if not path.is_file():
            from gpt2kit.hub import resolve_folder

            folder = resolve_folder(
                pretrained_model_name_or_path,
                revision=revision,
                subfolder=subfolder,
                cache_dir=cache_dir,
                token=token,
                local_files_only=local_files_only,
                force_download=force_download,
                allow_patterns=[CONFIG_NAME, HPARAMS_NAME],
            )
            path = config_file(folder)
        config, unused = cls._from_file(path, settings)
        if return_unused_kwargs:
            return config, unused
        refuse_unused(unused)
        return config

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> GPT2Config:
        """Read a configuration from a JSON file. Raises ConfigError."""
        config: GPT2Config = cls._from_file(json_file, {})[0]
        return config

    @classmethod
    def _from_file(cls, path: str | os.PathLike[str], settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        content = read_json_object(path)
        content.pop("attn_implementation", None)  # a file does not choose what code runs
        is_hparams = Path(path).name == HPARAMS_NAME
        try:
            content = settings_of_hparams(content) if is_hparams else content
            config, unused = cls.from_dict(content, return_unused_kwargs=True, **settings)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        config._file_keys = None if is_hparams else frozenset(content)
        return config, unused

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, Any], *, return_unused_kwargs: bool = False, **settings: Any
    ) -> Any:
        """Build a configuration from a mapping, with some settings changed; the mapping is left as it is.

        Result and refusals as in from_pretrained.
        """
        content, unused = override(config_dict, settings)
        config = cls(**content)
        if return_unused_kwargs:
            return config, unused
        refuse_unused(unused)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Give every setting, those with default values too, as plain values."""
        return every_setting(self.__dict__)

    def to_diff_dict(self) -> dict[str, Any]:
        """Give the settings that a file needs: all of GPT-2's, the common ones only off their default."""
        return needed_settings(self.__dict__)

    def to_json_string(self, use_diff: bool = True) -> str:
        """Write the configuration as JSON text; with `use_diff` false, every setting.

        A configuration that was read from a file keeps that file's keys: a setting that the file left out and
        that has its default value stays out, so that reading and writing changes no byte, whichever release
        of Transformers wrote the file.
        """
        if not use_diff:
            return to_json_text(self.to_dict())
        if self._file_keys is None:
            return to_json_text(self.to_diff_dict())
        return to_json_text(settings_of_file(self.__dict__, self._file_keys))

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Write the configuration to a JSON file, atomically."""
        write_json(json_file_path, self.to_json_string(use_diff))

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        push_to_hub: bool = False,
        *,
        repo_id: str | None = None,
        **hub_options: Any,
    ) -> None:
        """Write config.json into a folder, which is made if needed, and with push_to_hub publish it too.

        repo_id is by default the folder's name; hub_options as for push_to_hub. Raises ConfigError when the settings contradict each other or a setting of generation was put here.
        """
        misplaced = sorted(GENERATION_KEYS & self.__dict__.keys())
        if misplaced:
            raise ConfigError(
                f"{', '.join(misplaced)}: these are settings of generation; put them in a GenerationConfig"
            )
        self.validate()
        folder = Path(save_directory)
        if folder.is_file():
            raise ConfigError(f"{folder} is a file; give a folder")
        folder.mkdir(parents=True, exist_ok=True)
        self.to_json_file(folder / CONFIG_NAME)
        if push_to_hub:
            from gpt2kit.hub import push_files

            push_files(folder, [CONFIG_NAME], repo_id, **{"commit_message": "Upload config", **hub_options})

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Publish config.json in a repository, which is made if needed.

        options: commit_message, commit_description, private, token, revision (a branch), create_pr, tags.
        Gives huggingface_hub's CommitInfo. Raises HubError.
        """
        from gpt2kit.hub import push_saved

        def save(folder: Path) -> list[str]:
            self.save_pretrained(folder)
            return [CONFIG_NAME]

        return push_saved(save, repo_id, **{"commit_message": "Upload config", **options})

    def update(self, config_dict: Mapping[str, Any]) -> None:
        """Set several settings at once."""
        for name, value in config_dict.items():
            setattr(self, name, value)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> GPT2Config:
        """Give the part that describes the text model: for GPT-2, all of it."""
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GPT2Config) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # it is mutable

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.__dict__ if not name.startswith("_"))

    def __repr__(self) -> str:
        return f"GPT2Config {self.to_json_string()}"


def _quantization_config(value: Any) -> Any:
    """Check that a quantization_config is one of bitsandbytes or of a packed folder; a mapping stays as it is."""
    if isinstance(value, BitsAndBytesConfig):
        return value
    if not isinstance(value, Mapping):
        raise refuse("quantization_config", value, "a BitsAndBytesConfig or a mapping with its settings")
    try:
        check_packed_settings(value) if is_packed(value) else BitsAndBytesConfig.from_dict(value)
    except ConfigError as error:
        raise ConfigError(f"quantization_config: {error}") from None
    return dict(value)
