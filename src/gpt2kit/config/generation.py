"""GenerationConfig: the options of a generation under Transformers' names, kept in generation_config.json."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2kit.config.compile_config import CompileConfig
from gpt2kit.config.generation_contradictions import OUTPUT_FLAGS, check_contradictions, without_effect
from gpt2kit.config.generation_fields import CHECKS, check_value, unknown_message
from gpt2kit.config.json_file import read_json_object, write_json
from gpt2kit.config.outgoing import TRANSFORMERS_VERSION
from gpt2kit.config.watermarking import BaseWatermarkingConfig
from gpt2kit.errors import ConfigError, GenerationError

FILE_NAME = "generation_config.json"

# Where a file came from; they say nothing about generating.
_METADATA = ("_from_model_config", "transformers_version")


class GenerationConfig:
    """Options of a generation; a field that is None is not set and leaves the choice to the next layer.

    Priority when generating: options of the call > the config that is passed > the model's own > the defaults
    (20 new tokens, greedy; when sampling temperature 1, top_k 50).

    Fields are attributes and every value is checked when it is set; what no engine can do is refused with the
    reason when it comes to generating. Keys of a file that are no field are kept, readable as attributes, and
    written back; a keyword that is no field is a mistake.

        >>> GenerationConfig(do_sample=True, temperature=0.7, max_new_tokens=40).temperature
        0.7
    """

    max_length: int | None
    max_new_tokens: int | None
    min_length: int | None
    min_new_tokens: int | None
    early_stopping: bool | str | None
    max_time: float | None
    stop_strings: list[str] | None
    do_sample: bool | None
    num_beams: int | None
    use_mtp: bool | None
    use_cache: bool | None
    cache_implementation: str | None
    cache_config: dict[str, Any] | None
    max_cache_len: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    top_h: float | None
    typical_p: float | None
    epsilon_cutoff: float | None
    eta_cutoff: float | None
    repetition_penalty: float | None
    encoder_repetition_penalty: float | None
    length_penalty: float | None
    no_repeat_ngram_size: int | None
    bad_words_ids: list[list[int]] | None
    renormalize_logits: bool | None
    forced_bos_token_id: int | None
    forced_eos_token_id: int | list[int] | None
    remove_invalid_values: bool | None
    exponential_decay_length_penalty: tuple[int, float] | None
    suppress_tokens: list[int] | None
    begin_suppress_tokens: list[int] | None
    sequence_bias: dict[tuple[int, ...], float] | list[list[Any]] | None
    token_healing: bool | None
    guidance_scale: float | None
    watermarking_config: BaseWatermarkingConfig | None
    num_return_sequences: int | None
    output_attentions: bool | None
    output_hidden_states: bool | None
    output_scores: bool | None
    output_logits: bool | None
    return_dict_in_generate: bool | None
    pad_token_id: int | None
    bos_token_id: int | None
    eos_token_id: int | list[int] | None
    encoder_no_repeat_ngram_size: int | None
    decoder_start_token_id: int | list[int] | None
    is_assistant: bool | None
    num_assistant_tokens: int | None
    num_assistant_tokens_schedule: str | None
    assistant_confidence_threshold: float | None
    prompt_lookup_num_tokens: int | None
    max_matching_ngram_size: int | None
    assistant_early_exit: int | None
    assistant_lookbehind: int | None
    target_lookbehind: int | None
    assistant_ensemble_weight: float | None
    speculation_type: str | None
    compile_config: CompileConfig | None
    disable_compile: bool | None
    continuous_batching_config: Any
    low_memory: bool | None
    penalty_alpha: float | None
    dola_layers: str | list[int] | None
    diversity_penalty: float | None
    num_beam_groups: int | None
    constraints: list[Any] | None
    force_words_ids: list[Any] | None
    prefill_chunk_size: int | None
    long_generation: str | None  # "slide": go on past n_positions; a field of ours

    carried: dict[str, Any]  # what a file brought along that is no field
    _as_read: dict[str, Any] | None  # what a file held, while nothing has changed since

    def __init__(self, /, **options: Any) -> None:
        object.__setattr__(self, "carried", {})
        object.__setattr__(self, "_as_read", None)
        for name in CHECKS:
            object.__setattr__(self, name, None)
        options.pop("_commit_hash", None)
        for name, value in options.items():
            setattr(self, name, value)
        self.validate()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in CHECKS:
            object.__setattr__(self, name, check_value(name, value))
        elif name in _METADATA or name in self.carried:
            self.carried[name] = value
        else:
            raise GenerationError(unknown_message(name))

    def __getattr__(self, name: str) -> Any:
        # Only reached for what is no field. While an object is copied there is no `carried` yet.
        carried = self.__dict__.get("carried", {})
        if name in carried or name in _METADATA:
            return carried.get(name)
        raise AttributeError(f"GenerationConfig has no field {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GenerationConfig):
            return NotImplemented
        return self.options() == other.options()

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}={value!r}" for name, value in self.options().items())
        return f"GenerationConfig({inner})"

    def options(self) -> dict[str, Any]:
        """Return the fields that are set."""
        return {name: value for name in CHECKS if (value := getattr(self, name)) is not None}

    def update(
        self, defaults_only: bool = False, allow_custom_entries: bool = False, **options: Any
    ) -> dict[str, Any]:
        """Set these fields and return the options that are no fields.

        defaults_only: only fields that are not set yet. allow_custom_entries: keep what is no field as well.
        Raises GenerationError for a value that is not allowed and for contradictions.
        """
        unused = {}
        for name, value in options.items():
            is_known = name in CHECKS or name in _METADATA or name in self.carried
            if not is_known and allow_custom_entries:
                self.carried[name] = value
            elif not is_known or (defaults_only and getattr(self, name) is not None):
                unused[name] = value
            else:
                setattr(self, name, value)
        self.validate()
        return unused

    def validate(self, *, strict: bool = False) -> None:
        """Raise GenerationError for options that contradict each other.

        strict also refuses options that have no effect beside the others.
        """
        check_contradictions(self)
        reasons = self.without_effect()
        if strict and reasons:
            unused = "; ".join(
                f"{name}={getattr(self, name)!r} has no effect: {why}" for name, why in reasons.items()
            )
            raise GenerationError(f"GenerationConfig is invalid: {unused}; leave these unset")

    def without_effect(self) -> dict[str, str]:
        """Return each option that is set but has no effect beside the others, with the reason."""
        return without_effect(self)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, set or not, and what a file brought along."""
        fields = {name: getattr(self, name) for name in CHECKS}
        version = {"transformers_version": TRANSFORMERS_VERSION}
        return copy.deepcopy(fields | {"_from_model_config": None} | version | self.carried)

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what is set, and what a file brought along."""
        return {name: value for name, value in self.to_dict().items() if value is not None}

    def to_json_string(self, use_diff: bool = True, ignore_metadata: bool = False) -> str:
        """Return the options as JSON, keys sorted, as Transformers writes them.

        use_diff: only what is set. ignore_metadata: without the release of Transformers.
        """
        import json  # costs milliseconds that reading a GPT2Config need not pay

        content = self.to_diff_dict() if use_diff else self.to_dict()
        for name in _METADATA if ignore_metadata else ():
            content.pop(name, None)
        try:
            return json.dumps(_plain(content), indent=2, sort_keys=True) + "\n"
        except (TypeError, ValueError) as error:
            raise GenerationError(f"an option cannot be written as JSON: {error}") from None

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Write the options to a JSON file, atomically."""
        write_json(json_file_path, self.to_json_string(use_diff))

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, Any], *, return_unused_kwargs: bool = False, **overrides: Any
    ) -> Any:
        """Make a config of a parsed generation_config.json; overrides are options that win over it.

        Gives a GenerationConfig, or (GenerationConfig, overrides that are no fields) with
        return_unused_kwargs; without it such an override is refused. What a file asks for and cannot be done
        is refused when it comes to generating, so that a call can still replace it. Raises GenerationError
        for a value that is not allowed.
        """
        config = cls()
        known = {name: value for name, value in overrides.items() if name in CHECKS or name in config_dict}
        unused = {name: value for name, value in overrides.items() if name not in known}
        if unused and not return_unused_kwargs:
            raise GenerationError(unknown_message(next(iter(unused))))
        for name, value in {**config_dict, **known}.items():
            if name in CHECKS:
                setattr(config, name, value)
            elif name not in ("_commit_hash", "_original_object_hash"):
                config.carried[str(name)] = value
        config.validate()
        return (config, unused) if return_unused_kwargs else config

    @classmethod
    def from_model_config(cls, model_config: Any) -> GenerationConfig:
        """Return the options of generation among the settings of a model: a GPT2Config or a dict of them."""
        settings = model_config if isinstance(model_config, Mapping) else model_config.to_dict()
        config = cls(_from_model_config=True)
        for name, value in settings.items():
            if name in CHECKS:
                setattr(config, name, value)
        if any(getattr(config, name) for name in OUTPUT_FLAGS):
            config.return_dict_in_generate = True
        config.validate()
        return config

    @classmethod
    def for_model(cls, folder: Path) -> GenerationConfig:
        """Return the options that a model folder recommends.

        They are in its generation_config.json, in old folders among the settings in config.json.
        """
        config: GenerationConfig
        if (folder / FILE_NAME).is_file():
            config = cls.from_file(folder / FILE_NAME)
        elif (folder / "config.json").is_file():
            config = cls.from_model_config(read_json_object(folder / "config.json"))
        else:
            config = cls()
        return config

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        config_file_name: str | None = None,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        cache_dir: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        return_unused_kwargs: bool = False,
        **overrides: Any,
    ) -> Any:
        """Read generation_config.json of a folder or of a model on the hub; overrides win over the file.

        Gives a GenerationConfig, or a pair with return_unused_kwargs as from_dict does. Raises GenerationError when the file is missing or damaged, HubError when a name cannot be resolved.
        """
        from gpt2kit.hub import resolve_folder

        config_file_name = config_file_name or FILE_NAME
        folder = resolve_folder(
            name_or_path,
            revision=revision,
            subfolder=subfolder,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
            allow_patterns=[config_file_name],
        )
        path = folder / config_file_name
        if not path.is_file():
            raise GenerationError(
                f"{folder} has no {config_file_name}; make a GenerationConfig with the options instead"
            )
        return cls.from_file(path, return_unused_kwargs=return_unused_kwargs, **overrides)

    @classmethod
    def from_file(cls, path: Path, *, return_unused_kwargs: bool = False, **overrides: Any) -> Any:
        """Read one generation_config.json; raises GenerationError, naming the file, when it is damaged."""
        try:
            config, unused = cls.from_dict(read_json_object(path), return_unused_kwargs=True, **overrides)
            if unused and not return_unused_kwargs:
                raise GenerationError(unknown_message(next(iter(unused))))
        except ConfigError as error:
            raise GenerationError(str(error)) from error
        except GenerationError as error:
            raise GenerationError(f"{path}: {error}") from error
        object.__setattr__(config, "_as_read", config.to_dict())
        return (config, unused) if return_unused_kwargs else config

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        config_file_name: str | None = None,
        push_to_hub: bool = False,
        *,
        repo_id: str | None = None,
        **hub_options: Any,
    ) -> Path:
        """Write the options that are set into a folder, made if needed, and return the file's path.

        The file is replaced in one step; compile_config stays out of it. push_to_hub also publishes it in
        repo_id, by default a repository with the folder's name; hub_options as for push_to_hub. Raises GenerationError when options
        contradict each other or have no effect, unless they are as a file held them.
        """
        self.validate(strict=self._as_read != self.to_dict())
        folder = Path(save_directory)
        if folder.is_file():
            raise GenerationError(f"{folder} is a file; give a folder")
        folder.mkdir(parents=True, exist_ok=True)
        saved = copy.copy(self)
        saved.compile_config = None
        path = folder / (config_file_name or FILE_NAME)
        saved.to_json_file(path)
        if push_to_hub:
            from gpt2kit.hub import push_files

            message = {"commit_message": "Upload generation config"}
            push_files(folder, [path.name], repo_id, **{**message, **hub_options})
        return path

    def push_to_hub(self, repo_id: str, config_file_name: str | None = None, **options: Any) -> Any:
        """Publish generation_config.json in a repository, which is made if needed.

        options: commit_message, commit_description, private, token, revision (a branch), create_pr, tags.
        Gives huggingface_hub's CommitInfo. Raises HubError.
        """
        from gpt2kit.hub import push_saved

        return push_saved(
            lambda folder: [self.save_pretrained(folder, config_file_name)],
            repo_id,
            **{"commit_message": "Upload generation config", **options},
        )


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: keys are text, settings are dictionaries."""
    if isinstance(value, (BaseWatermarkingConfig, CompileConfig)):
        value = value.to_dict()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
