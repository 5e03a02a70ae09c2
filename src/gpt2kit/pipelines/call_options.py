"""The options of a text-generation call: which belong to the pipeline, which to the generation."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from gpt2kit.config import GenerationConfig
from gpt2kit.config.generation_fields import CHECKS, check_supported, check_value, unknown_message
from gpt2kit.errors import GenerationError
from gpt2kit.generation.loop import DEFAULT_MAX_ROWS
from gpt2kit.generation.options import merge
from gpt2kit.generation.rows import OnText, OnToken


class ReturnType(enum.Enum):
    """What a call returns for each row."""

    TENSORS = 0
    NEW_TEXT = 1
    FULL_TEXT = 2


# The pipeline's own defaults for what neither the call nor the model's generation_config.json sets.
_DEFAULTS = {"do_sample": True, "temperature": 0.7}
DEFAULT_NEW_TOKENS = 256


@dataclass(frozen=True)
class CallOptions:
    """Every option of one call; `generation` holds the generation options, highest priority first.

    return_type, return_full_text, return_text, return_tensors: what each row gives; they exclude each other.
    clean_up_tokenization_spaces, skip_special_tokens: how ids become text.
    prefix: put before every prompt; not part of the returned text.
    handle_long_generation: None, or "hole" to drop the left of a prompt that leaves no room for the new
        tokens.
    stop_sequence: Transformers' name for stop_strings. trim_stop_strings: end the text before them.
    truncation, padding, add_special_tokens, tokenizer_encode_kwargs: for the tokenizer; rows are never
        padded.
    continue_final_message: go on with the last message of a chat instead of replying to it; None does so
        when it is the assistant's.
    tools, documents: lists of dicts for a chat's template. chat_template: a Jinja template, the name of one of
        the tokenizer's, or "plain" for lines of "role: content".
    batch_size: how many prompts of a generator are taken at once. max_rows: how many rows run at once.
    num_workers: accepted and without effect: prompts are tokenized in this process.
    assistant_model: a smaller model that guesses ahead; assistant_tokenizer: its own, if it has another.
    seed, logits_processor, stopping_criteria, prefix_allowed_tokens_fn, negative_prompt_ids, on_token, on_text:
        as for gpt2kit.generation.generate.
    streamer: an object with put(ids) and end(), for a single row.
    """

    return_type: ReturnType | None = None
    return_full_text: bool | None = None
    return_text: bool | None = None
    return_tensors: bool | None = None
    clean_up_tokenization_spaces: bool | None = None
    skip_special_tokens: bool = True
    prefix: str = ""
    handle_long_generation: str | None = None
    stop_sequence: str | Sequence[str] | None = None
    trim_stop_strings: bool = False
    truncation: Any = None
    padding: Any = None
    add_special_tokens: bool | None = None
    tokenizer_encode_kwargs: Mapping[str, Any] = field(default_factory=dict)
    continue_final_message: bool | None = None
    tools: Sequence[Any] | None = None
    documents: Sequence[Any] | None = None
    chat_template: str | None = None
    batch_size: int = 1
    num_workers: int = 0
    max_rows: int = DEFAULT_MAX_ROWS
    seed: int | Sequence[int] | None = None
    logits_processor: Sequence[Any] = ()
    stopping_criteria: Sequence[Any] = ()
    prefix_allowed_tokens_fn: Any = None
    negative_prompt_ids: Sequence[Sequence[int]] | None = None
    assistant_model: Any = None
    assistant_tokenizer: Any = None
    on_token: OnToken | None = None
    on_text: OnText | None = None
    streamer: Any = None
    generation_config: GenerationConfig | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)

    def updated(self, options: Mapping[str, Any]) -> CallOptions:
        """Return these options with others on top; a generation_config of the call replaces the earlier ones.

        Raises GenerationError for an unknown option, or one that is not supported.
        """
        own: dict[str, Any] = {}
        generation: dict[str, Any] = {}
        for name, value in options.items():
            if name in _OWN:
                own[name] = _OWN_DEFAULTS[name] if value is None else value
            elif name in CHECKS:
                generation[name] = check_value(name, value)
                check_supported(name, generation[name])
            else:
                raise GenerationError(unknown_message(name, _OWN))
        if own.get("stop_sequence") is not None:
            generation["stop_strings"] = check_value("stop_strings", own.pop("stop_sequence"))
        earlier = self.generation if own.get("generation_config") is None else {}
        if "max_length" in generation:  # a length of this call hides an earlier one of the other kind
            earlier = {name: value for name, value in earlier.items() if name != "max_new_tokens"}
        result = replace(self, **own, generation={**earlier, **generation})
        result._check()
        return result

    def merged(self, model_config: GenerationConfig | None) -> GenerationConfig:
        """Return the generation options of this call, joined with the model's and the pipeline's defaults."""
        return merge(self.generation, self.generation_config, model_config, _DEFAULTS)

    def chosen_return_type(self) -> ReturnType:
        """Return what each row gives."""
        if self.return_type is not None:
            return self.return_type
        if self.return_tensors:
            return ReturnType.TENSORS
        return ReturnType.NEW_TEXT if self.return_full_text is False else ReturnType.FULL_TEXT

    def _check(self) -> None:
        given = [
            name
            for name in ("return_full_text", "return_text", "return_tensors")
            if getattr(self, name) is not None
            and not (name == "return_tensors" and self.return_tensors is False)
        ]
        if len(given) > 1 and self.return_type is None:
            raise GenerationError(f"{' and '.join(given)} exclude each other; give one of them")
        if self.return_text is False:
            raise GenerationError("return_text=False leaves nothing to return; use return_tensors=True")
        if self.return_type is not None and not isinstance(self.return_type, ReturnType):
            raise GenerationError(f"return_type must be a ReturnType, got {self.return_type!r}")
        if self.handle_long_generation not in (None, "hole"):
            raise GenerationError(
                f"handle_long_generation must be None or 'hole', got {self.handle_long_generation!r}"
            )
        if self.padding not in (None, False, True, "longest", "do_not_pad"):
            raise GenerationError(
                f"padding={self.padding!r} is not supported: rows are never padded; leave it out"
            )
        if not isinstance(self.prefix, str):
            raise GenerationError(f"prefix must be a string, got {self.prefix!r}")
        for name, value, least in (("batch_size", self.batch_size, 1), ("num_workers", self.num_workers, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise GenerationError(f"{name} must be an int of at least {least}, got {value!r}")
        if self.continue_final_message not in (None, True, False):
            raise GenerationError(
                f"continue_final_message must be True, False or None, got {self.continue_final_message!r}"
            )
        if self.streamer is not None and not (
            hasattr(self.streamer, "put") and hasattr(self.streamer, "end")
        ):
            raise GenerationError(f"streamer must have the methods put(ids) and end(), got {self.streamer!r}")


_OWN_DEFAULTS: dict[str, Any] = {
    item.name: getattr(CallOptions(), item.name) for item in fields(CallOptions) if item.name != "generation"
}
_OWN = tuple(_OWN_DEFAULTS)
