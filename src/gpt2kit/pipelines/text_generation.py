"""TextGenerationPipeline: prompts in, continued texts out."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt2kit.config import GenerationConfig
from gpt2kit.errors import GenerationError
from gpt2kit.generation import Engine, Generated
from gpt2kit.generation.loop import generate_merged
from gpt2kit.pipelines.call_options import DEFAULT_NEW_TOKENS, CallOptions, ReturnType

# What a call returns for one row: {"generated_text": str} or {"generated_token_ids": list[int]}.
Record = dict[str, Any]


class TextPiece(NamedTuple):
    """A piece of text of one row of a batch."""

    prompt_index: int
    row: int
    text: str


class TextGenerationPipeline:
    """Continues texts with a GPT-2.

    engine: runs the model. tokenizer: of the same model. model_config: the model's own generation options, by
    default the engine's.
    options: defaults for every call. Unless a call, these defaults or the model's generation_config.json say
    otherwise, up to 256 new tokens are sampled at temperature 0.7.

        >>> pipe("My tart needs some", num_return_sequences=4, return_full_text=False)  # doctest: +SKIP
    """

    task = "text-generation"

    def __init__(
        self,
        engine: Engine,
        tokenizer: Any,  # any tokenizer with Transformers' call signature
        *,
        model_config: GenerationConfig | None = None,
        **options: Any,
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        own = getattr(engine, "generation_config", None)
        self.model_config = model_config if model_config is not None else own
        self._defaults = CallOptions().updated(options)

    def __call__(
        self, text_inputs: str | Iterable[str], **options: Any
    ) -> list[Record] | list[list[Record]] | Iterator[list[Record]]:
        """Continue one prompt, a list of prompts, or every prompt of a generator.

        Returns a list of records, one for each of num_return_sequences, for a string; a list of such lists
        for a list or tuple; an iterator of them for anything else that can be iterated, batch_size prompts
        at a time. A list runs as one ragged batch: each prompt gives what it gives alone, and no padding
        token is needed.

        options: those of CallOptions and GenerationConfig. Raises GenerationError for an unknown one, for
        options that contradict each other, and for a prompt that leaves no room in n_positions.
        """
        call = self._defaults.updated(options)
        if isinstance(text_inputs, str):
            return self._records([text_inputs], call)[0]
        if isinstance(text_inputs, (list, tuple)):
            return self._records(_checked(text_inputs), call)
        if not isinstance(text_inputs, Iterable):
            raise GenerationError(
                f"a prompt must be a string, or a list or iterable of them, got {text_inputs!r}"
            )
        return self._iterate(text_inputs, call)

    def generate(self, prompts: Sequence[str], **options: Any) -> list[Generated]:
        """Continue prompts and return their rows with ids, text, seed and the reason why each ended."""
        return self._generate(_checked(prompts), self._defaults.updated(options))

    def stream(self, prompt: str, **options: Any) -> Iterator[str]:
        """Yield the new text of one prompt piece by piece as it is generated.

        Leaving the iteration early ends the generation. Takes a call's options; num_return_sequences must be
        1.
        """
        call = self._defaults.updated(options)
        self._require_one_row(1, call, "stream")
        return (piece.text for piece in self._stream(_checked([prompt]), call))

    def stream_batch(self, prompts: Sequence[str], **options: Any) -> Iterator[TextPiece]:
        """Yield the new text of all rows piece by piece as they are generated together."""
        return self._stream(_checked(prompts), self._defaults.updated(options))

    def _records(self, prompts: list[str], call: CallOptions) -> list[list[Record]]:
        token_prompts = self._encode(prompts, call)
        rows = self._generate(prompts, call, token_prompts)
        records: list[list[Record]] = [[] for _ in prompts]
        for row in rows:
            prompt_ids = token_prompts[row.prompt_index]
            records[row.prompt_index].append(self._record(prompts[row.prompt_index], prompt_ids, row, call))
        return records

    def _record(self, prompt: str, prompt_ids: list[int], row: Generated, call: CallOptions) -> Record:
        return_type = call.chosen_return_type()
        if return_type is ReturnType.TENSORS:
            return {"generated_token_ids": [*(row.prompt_ids or prompt_ids), *row.ids]}
        is_trimmed = row.stop_string is not None and call.trim_stop_strings
        if is_trimmed or row.prompt_ids is not None:  # text that the new ids do not spell
            text = row.text or ""
        else:
            how = (
                {}
                if call.clean_up_tokenization_spaces is None
                else {"clean_up_tokenization_spaces": call.clean_up_tokenization_spaces}
            )
            text = self.tokenizer.decode(row.ids, skip_special_tokens=call.skip_special_tokens, **how)
        return {"generated_text": prompt + text if return_type is ReturnType.FULL_TEXT else text}

    def _iterate(self, prompts: Iterable[Any], call: CallOptions) -> Iterator[list[Record]]:
        batch: list[Any] = []
        for prompt in prompts:
            batch.append(prompt)
            if len(batch) == call.batch_size:
                yield from self._records(_checked(batch), call)
                batch = []
        if batch:
            yield from self._records(_checked(batch), call)

    def _generate(
        self, prompts: list[str], call: CallOptions, token_prompts: list[list[int]] | None = None
    ) -> list[Generated]:
        if token_prompts is None:
            token_prompts = self._encode(prompts, call)
        merged = self._merged(call)
        on_token = call.on_token
        if call.streamer is not None:
            self._require_one_row(len(prompts), call, "a streamer")
            call.streamer.put(np.array(token_prompts[0], dtype=np.int64))

            def on_token(prompt_index: int, row: int, token_id: int) -> bool:
                call.streamer.put(np.array([token_id], dtype=np.int64))
                return bool(call.on_token is not None and call.on_token(prompt_index, row, token_id))

        rows = generate_merged(
            self.engine,
            token_prompts,
            merged,
            default_new_tokens=DEFAULT_NEW_TOKENS,
            seed=call.seed,
            logits_processor=call.logits_processor,
            stopping_criteria=call.stopping_criteria,
            on_token=on_token,
            on_text=call.on_text,
            tokenizer=self.tokenizer,
            trim_stop_strings=call.trim_stop_strings,
            skip_special_tokens=call.skip_special_tokens,
            max_rows=call.max_rows,
        )
        if call.streamer is not None:
            call.streamer.end()
        return rows

    def _merged(self, call: CallOptions) -> GenerationConfig:
        merged = call.merged(self.model_config)
        if call.prefix and merged.max_new_tokens is None and merged.max_length is not None:
            # A total length is meant without the prefix.
            merged.max_length += len(self._encode_one(call.prefix, call))
        if call.prefix and merged.min_new_tokens is None and merged.min_length is not None:
            merged.min_length += len(self._encode_one(call.prefix, call))
        return merged

    def _encode(self, prompts: list[str], call: CallOptions) -> list[list[int]]:
        token_prompts = [self._encode_one(call.prefix + prompt, call) for prompt in prompts]
        if call.handle_long_generation != "hole":
            return token_prompts
        merged = self._merged(call)
        n_positions = self.engine.config.n_positions
        kept = []
        for ids in token_prompts:
            num_new = merged.max_new_tokens
            if num_new is None:
                num_new = (
                    merged.max_length - len(ids) if merged.max_length is not None else DEFAULT_NEW_TOKENS
                )
            room = n_positions - num_new
            if room < 1:
                raise GenerationError(
                    f"handle_long_generation='hole' keeps no prompt: {num_new} new tokens are asked for and "
                    f"n_positions is {n_positions}; set max_new_tokens below it"
                )
            kept.append(ids[-room:])
        return kept

    def _encode_one(self, text: str, call: CallOptions) -> list[int]:
        how: dict[str, Any] = {}
        if call.add_special_tokens is not None:
            how["add_special_tokens"] = call.add_special_tokens
        if call.truncation is not None:
            how["truncation"] = call.truncation
            how["max_length"] = self._merged_max_length(call)
        encoded: list[int] = self.tokenizer(text, **{**how, **call.tokenizer_encode_kwargs})["input_ids"]
        return encoded

    def _merged_max_length(self, call: CallOptions) -> int:
        given = call.generation.get("max_length")
        return self.engine.config.n_positions if given is None else int(given)

    def _require_one_row(self, num_prompts: int, call: CallOptions, who: str) -> None:
        num_rows = num_prompts * (call.merged(self.model_config).num_return_sequences or 1)
        if num_rows != 1:
            raise GenerationError(f"{who} takes one row, but {num_rows} are asked for; use stream_batch")

    def _stream(self, prompts: list[str], call: CallOptions) -> Iterator[TextPiece]:
        """Generate in a thread and hand its pieces over; the thread ends with the iteration."""
        pieces: queue.SimpleQueue[TextPiece | BaseException | None] = queue.SimpleQueue()
        is_left = threading.Event()

        def on_text(prompt_index: int, row: int, text: str) -> bool:
            if text:
                pieces.put(TextPiece(prompt_index, row, text))
            asked = call.on_text is not None and call.on_text(prompt_index, row, text)
            return is_left.is_set() or bool(asked)

        def work() -> None:
            try:
                self._generate(prompts, call.updated({"on_text": on_text}))
            except BaseException as error:
                pieces.put(error)
            else:
                pieces.put(None)

        thread = threading.Thread(target=work, name="gpt2kit-stream", daemon=True)
        thread.start()
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            is_left.set()
            thread.join()


def _checked(prompts: Sequence[Any]) -> list[str]:
    for prompt in prompts:
        if isinstance(prompt, dict) or (
            isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], dict)
        ):
            raise GenerationError(
                "chats are not supported: GPT-2 has no chat template; join the messages into one prompt"
            )
        if not isinstance(prompt, str):
            raise GenerationError(f"a prompt must be a string, got {prompt!r}")
    return list(prompts)
