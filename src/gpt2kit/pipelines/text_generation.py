"""TextGenerationPipeline: prompts in, continued texts out. What a prompt is stands in prompts.py."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gpt2kit.checkpoint import Checkpoint
from gpt2kit.config import GenerationConfig
from gpt2kit.errors import GenerationError
from gpt2kit.generation import Engine, Generated
from gpt2kit.generation.loop import generate_merged
from gpt2kit.pipelines.base import Pipeline
from gpt2kit.pipelines.call_options import DEFAULT_NEW_TOKENS, CallOptions, ReturnType
from gpt2kit.pipelines.generation_steps import (
    POSTPROCESS_OPTIONS,
    PREPROCESS_OPTIONS,
    generated,
    records,
)
from gpt2kit.pipelines.inputs import run_inputs
from gpt2kit.pipelines.models import as_engine, moved, with_assistant
from gpt2kit.pipelines.prompts import Prompt, checked_prompts, encode_prompt, is_prompt, with_reply
from gpt2kit.pipelines.steps import as_tensors, has_own_steps, model_part, run_steps, split_options

# What a call returns for one row: {"generated_text": str or messages} or {"generated_token_ids": list[int]}.
Record = dict[str, Any]


class TextPiece(NamedTuple):
    """A piece of text of one row of a batch."""

    prompt_index: int
    row: int
    text: str


class TextGenerationPipeline(Pipeline):
    """Continues texts, and replies to chats, with a GPT-2.

    model: an engine, or a torch GPT2LMHeadModel in eval mode. tokenizer: of the same model. device: moves a
    torch model. model_config: the model's own generation options, by default the engine's.
    options: defaults for every call. Unless a call, these defaults or the model's generation_config.json say
    otherwise, up to 256 new tokens are sampled at temperature 0.7.

        >>> pipe("My tart needs some", num_return_sequences=4, return_full_text=False)  # doctest: +SKIP
    """

    task = "text-generation"

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,  # any tokenizer with Transformers' call signature
        *,
        checkpoint: Checkpoint | None = None,
        device: Any = None,
        model_config: GenerationConfig | None = None,
        **options: Any,
    ) -> None:
        self._runner = moved(model, device)
        as_engine(self._runner)  # refuses what does not generate
        super().__init__(getattr(model, "model", model), tokenizer, checkpoint=checkpoint, **options)
        own = getattr(model, "generation_config", None)
        self.model_config = model_config if model_config is not None else own
        self._defaults = CallOptions()
        if not has_own_steps(type(self)):
            self._defaults = self._call_options(self.step_defaults)

    @property
    def engine(self) -> Engine:
        """What generates: the engine given, or the one that fits a torch model as it is now."""
        return as_engine(self._runner)

    def __call__(self, text_inputs: Any, **options: Any) -> Any:
        """Continue one prompt, a list of prompts, or every prompt of a generator or dataset.

        A prompt is a string, or a chat: a list of messages with "role" and "content".
        Returns a list of records, one for each of num_return_sequences, for a prompt; a list of such lists
        for a list or tuple; an iterator of them for anything else that can be iterated, batch_size prompts
        at a time. A list runs as one ragged batch: each prompt gives what it gives alone, and no padding
        token is needed.

        options: those of CallOptions and GenerationConfig; with return_dict_in_generate, output_scores and
        output_logits add "scores" and "logits", a list of the vocabulary's size for each new token.
        Raises GenerationError for an unknown option, for options that contradict each other, and for a prompt
        that leaves no room in n_positions; PipelineError for what is no prompt.
        """
        if has_own_steps(self):
            return run_steps(self, text_inputs, is_prompt, options)
        call = self._call_options(options)
        return run_inputs(
            text_inputs,
            is_prompt,
            lambda prompts: self._records(checked_prompts(prompts), call),
            call.batch_size,
            "a string or a chat",
        )

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        self._call_options(options)  # refuses what the task cannot take
        generation = tuple(name for name in options if name not in PREPROCESS_OPTIONS + POSTPROCESS_OPTIONS)
        return split_options(options, POSTPROCESS_OPTIONS, generation)

    def preprocess(self, inputs: Any, **options: Any) -> Any:
        """Return the ids and the mask of a prompt, tensors (1, T), and the prompt as "prompt_text"."""
        [prompt] = checked_prompts([inputs])
        [ids] = self._encode([prompt], self._call_options(options))
        return {**as_tensors(ids), "prompt_text": prompt}

    def _forward(self, model_inputs: Any, **options: Any) -> Any:
        """Return "generated_sequence" (1, rows, T), and what came with the inputs."""
        inputs, others = model_part(model_inputs)
        call = self._call_options(options)
        return {**inputs, **others, **generated(self, inputs, call, self._merged(call))}

    def postprocess(self, model_outputs: Any, **options: Any) -> Any:
        """Return the records of a prompt."""
        call = self._call_options(options)
        return records(self.tokenizer, model_outputs, call)

    def generate(self, prompts: Sequence[Any], **options: Any) -> list[Generated]:
        """Continue prompts and return their rows with ids, text, seed and the reason why each ended."""
        return self._generate(checked_prompts(prompts), self._call_options(options))

    def stream(self, prompt: Any, **options: Any) -> Iterator[str]:
        """Yield the new text of one prompt piece by piece as it is generated.

        Leaving the iteration early ends the generation. Takes a call's options; num_return_sequences must be
        1.
        """
        call = self._call_options(options)
        self._require_one_row(1, call, "stream")
        return (piece.text for piece in self._stream(checked_prompts([prompt]), call))

    def stream_batch(self, prompts: Sequence[Any], **options: Any) -> Iterator[TextPiece]:
        """Yield the new text of all rows piece by piece as they are generated together."""
        return self._stream(checked_prompts(prompts), self._call_options(options))

    def _call_options(self, options: Mapping[str, Any]) -> CallOptions:
        return self._defaults.updated(with_assistant(options, self.tokenizer, self._runner))

    def _records(self, prompts: list[Prompt], call: CallOptions) -> list[list[Record]]:
        token_prompts = self._encode(prompts, call)
        rows = self._generate(prompts, call, token_prompts)
        merged = self._merged(call)
        records: list[list[Record]] = [[] for _ in prompts]
        for row in rows:
            prompt_ids = token_prompts[row.prompt_index]
            records[row.prompt_index].append(
                self._record(prompts[row.prompt_index], prompt_ids, row, call, merged)
            )
        return records

    def _record(
        self,
        prompt: Prompt,
        prompt_ids: list[int],
        row: Generated,
        call: CallOptions,
        merged: GenerationConfig,
    ) -> Record:
        ids = row.ids
        if not prompt_ids:  # the begin token that generation put there is not the caller's
            begin = merged.bos_token_id if merged.bos_token_id is not None else self.config.bos_token_id
            assert begin is not None  # generation has started from it
            ids = [begin, *ids]
        return_type = call.chosen_return_type()
        if return_type is ReturnType.TENSORS:
            given = row.prompt_ids if prompt_ids and row.prompt_ids is not None else prompt_ids
            return {"generated_token_ids": [*given, *ids]}
        is_trimmed = row.stop_string is not None and call.trim_stop_strings
        if is_trimmed or row.prompt_ids is not None:  # text that the new ids do not spell
            text = row.text or ""
        else:
            how = (
                {}
                if call.clean_up_tokenization_spaces is None
                else {"clean_up_tokenization_spaces": call.clean_up_tokenization_spaces}
            )
            text = self.tokenizer.decode(ids, skip_special_tokens=call.skip_special_tokens, **how)
        is_full = return_type is ReturnType.FULL_TEXT
        record: Record = {"generated_text": with_reply(prompt, text, call) if is_full else text}
        return record | _kept(row, merged) if merged.return_dict_in_generate else record

    def _generate(
        self, prompts: list[Prompt], call: CallOptions, token_prompts: list[list[int]] | None = None
    ) -> list[Generated]:
        if token_prompts is None:
            token_prompts = self._encode(prompts, call)
        merged = self._merged(call)
        on_token = call.on_token
        if call.streamer is not None:
            import numpy as np

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
            prefix_allowed_tokens_fn=call.prefix_allowed_tokens_fn,
            negative_prompt_ids=call.negative_prompt_ids,
            assistant=call.assistant_model,
            assistant_tokenizer=call.assistant_tokenizer,
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
            merged.max_length += self._prefix_length(call)
        if call.prefix and merged.min_new_tokens is None and merged.min_length is not None:
            merged.min_length += self._prefix_length(call)
        return merged

    def _encode(self, prompts: list[Prompt], call: CallOptions) -> list[list[int]]:
        max_length = self._max_prompt_length(call)
        token_prompts = [encode_prompt(self.tokenizer, prompt, call, max_length) for prompt in prompts]
        if call.handle_long_generation != "hole":
            return token_prompts
        merged = self._merged(call)
        n_positions = self.config.n_positions
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

    def _prefix_length(self, call: CallOptions) -> int:
        return len(encode_prompt(self.tokenizer, "", call, self._max_prompt_length(call)))

    def _max_prompt_length(self, call: CallOptions) -> int:
        given = call.generation.get("max_length")
        return self.config.n_positions if given is None else int(given)

    def _require_one_row(self, num_prompts: int, call: CallOptions, who: str) -> None:
        num_rows = num_prompts * (call.merged(self.model_config).num_return_sequences or 1)
        if num_rows != 1:
            raise GenerationError(f"{who} takes one row, but {num_rows} are asked for; use stream_batch")

    def _stream(self, prompts: list[Prompt], call: CallOptions) -> Iterator[TextPiece]:
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


def _kept(row: Generated, merged: GenerationConfig) -> Record:
    """Return what was kept of a row, under Transformers' names; of beams, what is a row's and not a step's."""
    if row.score is not None:
        scores = {"sequences_scores": row.score} if merged.output_scores else {}
        return {**scores, "beam_indices": row.beam_indices}
    steps = {} if row.steps is None else {"scores": row.steps.scores, "logits": row.steps.logits}
    return {name: [values.tolist() for values in kept] for name, kept in steps.items() if kept}
