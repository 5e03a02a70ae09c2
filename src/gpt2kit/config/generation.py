"""GenerationConfig: the options of a generation under Transformers' names, kept in generation_config.json."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gpt2kit.config.generation_fields import (
    CHECKS,
    SAMPLING_NEUTRAL,
    UNSUPPORTED,
    check_supported,
    check_value,
    unknown_message,
)
from gpt2kit.errors import GenerationError

FILE_NAME = "generation_config.json"


class GenerationConfig:
    """Options of a generation; a field that is None is not set and leaves the choice to the next layer.

    Priority when generating: options of the call > the config that is passed > the model's own > the defaults
    (max_length 20 new tokens, greedy; when sampling temperature 1, top_k 50).

    Fields are attributes. The other fields of Transformers are taken only with values that change nothing,
    and kept; anything else is refused with a GenerationError that gives the reason. Keys of a file that no
    version of ours knows are kept and written back.

        >>> GenerationConfig(do_sample=True, temperature=0.7, max_new_tokens=40).temperature
        0.7
    """

    max_length: int | None
    max_new_tokens: int | None
    min_length: int | None
    min_new_tokens: int | None
    max_time: float | None
    stop_strings: list[str] | None
    do_sample: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    epsilon_cutoff: float | None
    eta_cutoff: float | None
    repetition_penalty: float | None
    no_repeat_ngram_size: int | None
    bad_words_ids: list[list[int]] | None
    num_return_sequences: int | None
    pad_token_id: int | None
    bos_token_id: int | None
    eos_token_id: int | list[int] | None

    # Settings without a meaning here, kept so that they are written back: neutral fields and foreign keys of
    # a file.
    carried: dict[str, Any]

    def __init__(self, **options: Any) -> None:
        self.carried = {}
        for name in CHECKS:
            object.__setattr__(self, name, None)
        self.update(**options)
        self.validate()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in CHECKS:
            value = check_value(name, value)
        elif name in UNSUPPORTED:
            check_supported(name, value)
            self.carried[name] = value
            return
        elif name != "carried":
            raise GenerationError(unknown_message(name))
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name in UNSUPPORTED:
            return self.carried.get(name)
        raise AttributeError(f"GenerationConfig has no field {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GenerationConfig):
            return NotImplemented
        return self._without_metadata() == other._without_metadata()

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}={value!r}" for name, value in self._without_metadata().items())
        return f"GenerationConfig({inner})"

    def update(self, **options: Any) -> None:
        """Set these fields; raises GenerationError for an unknown name or a value that is not allowed."""
        for name, value in options.items():
            setattr(self, name, value)

    def validate(self, *, strict: bool = False) -> None:
        """Raise GenerationError for options that contradict each other.

        strict also refuses sampling options without do_sample=True, which otherwise just have no effect.
        """
        if (self.num_return_sequences or 1) > 1 and not self.do_sample:
            raise GenerationError(
                f"num_return_sequences={self.num_return_sequences} needs do_sample=True: "
                "greedy decoding would give the same text every time"
            )
        unused = self.unused_sampling_options()
        if strict and unused:
            raise GenerationError(
                f"{', '.join(unused)} only act when sampling; set do_sample=True, or leave them unset"
            )

    def unused_sampling_options(self) -> list[str]:
        """Return `name=value` of each sampling option that is set although do_sample is not True."""
        if self.do_sample:
            return []
        return [
            f"{name}={value!r}"
            for name, neutral in SAMPLING_NEUTRAL.items()
            if (value := getattr(self, name)) is not None and value not in neutral
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, set or not, and what a file brought along."""
        return {name: getattr(self, name) for name in CHECKS} | self.carried

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what is set, and what a file brought along."""
        return {name: value for name, value in self.to_dict().items() if value is not None}

    def to_json_string(self) -> str:
        """Return what is set as JSON, keys sorted, as Transformers writes it."""
        import json  # costs milliseconds that reading a GPT2Config need not pay

        return json.dumps(self.to_diff_dict(), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_dict(cls, values: dict[str, Any], **overrides: Any) -> GenerationConfig:
        """Make a config of a parsed generation_config.json; overrides are options that win over it.

        What a file asks for and is not supported is refused when it comes to generating, so that a call can
        still replace it. Raises GenerationError for a value of a supported field that is not allowed.
        """
        config = cls()
        for name, value in {**values, **overrides}.items():
            if name in CHECKS or name in overrides:
                setattr(config, name, value)
            else:
                config.carried[name] = value
        config.validate()
        return config

    @classmethod
    def for_model(cls, folder: Path) -> GenerationConfig:
        """Return the options that a model folder recommends: its generation_config.json, or none at all."""
        path = folder / FILE_NAME
        return cls.from_file(path) if path.is_file() else cls()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        config_file_name: str = FILE_NAME,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        cache_dir: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        **overrides: Any,
    ) -> GenerationConfig:
        """Read generation_config.json of a folder or of a model on the hub; overrides win over the file.

        Raises GenerationError when the file is missing or damaged, HubError when a name cannot be resolved.
        """
        from gpt2kit.hub import resolve_folder

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
        return cls.from_file(path, **overrides)

    @classmethod
    def from_file(cls, path: Path, **overrides: Any) -> GenerationConfig:
        """Read one generation_config.json; raises GenerationError, naming the file, when it is damaged."""
        import json

        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise GenerationError(f"{path} is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise GenerationError(f"{path} must hold a JSON object, got a {type(values).__name__}")
        try:
            return cls.from_dict(values, **overrides)
        except GenerationError as error:
            raise GenerationError(f"{path}: {error}") from error

    def save_pretrained(self, folder: str | os.PathLike[str], config_file_name: str = FILE_NAME) -> Path:
        """Write the options that are set into a folder, made if needed, and return the file's path.

        The file is replaced in one step. Raises GenerationError when options contradict each other.
        """
        self.validate(strict=True)
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        path = target / config_file_name
        temporary = target / f".{config_file_name}.{os.getpid()}.tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(self.to_json_string())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        return path

    def _without_metadata(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in self.to_diff_dict().items()
            if name in CHECKS or name in UNSUPPORTED
        }
