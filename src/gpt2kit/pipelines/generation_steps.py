"""Text generation step by step, for subclasses with steps of their own: see steps.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpt2kit.config import GenerationConfig
from gpt2kit.errors import PipelineError
from gpt2kit.pipelines.call_options import DEFAULT_NEW_TOKENS, CallOptions, ReturnType
from gpt2kit.pipelines.prompts import with_reply
from gpt2kit.pipelines.steps import torch_module

if TYPE_CHECKING:
    from gpt2kit.pipelines.base import Pipeline

PREPROCESS_OPTIONS = (
    "prefix",
    "handle_long_generation",
    "truncation",
    "padding",
    "add_special_tokens",
    "tokenizer_encode_kwargs",
    "tools",
    "documents",
    "chat_template",
)
POSTPROCESS_OPTIONS = (
    "return_type",
    "return_full_text",
    "return_text",
    "return_tensors",
    "clean_up_tokenization_spaces",
    "skip_special_tokens",
)
# Options that only the loop over engines knows.
_REFUSED = ("trim_stop_strings", "on_token", "on_text", "max_rows")


def generated(
    pipe: Pipeline, inputs: Mapping[str, Any], call: CallOptions, merged: GenerationConfig
) -> dict[str, Any]:
    """Return what the model's generate() makes of a prompt's tensors: ids (1, rows, T), and scores that were asked for.

    Raises PipelineError for options that generate() does not have.
    """
    plain = CallOptions()
    for name in _REFUSED:
        if getattr(call, name) != getattr(plain, name):
            raise PipelineError(f"{name} is not for a pipeline with steps of its own; leave it out")
    if merged.max_new_tokens is None and merged.max_length is None:
        merged.max_new_tokens = DEFAULT_NEW_TOKENS
    is_empty = inputs["input_ids"].shape[1] == 0  # generate() starts from the begin token
    output = torch_module(pipe).generate(
        **({} if is_empty else inputs),
        generation_config=merged,
        seed=call.seed,
        logits_processor=call.logits_processor or None,
        stopping_criteria=call.stopping_criteria or None,
        prefix_allowed_tokens_fn=call.prefix_allowed_tokens_fn,
        streamer=call.streamer,
        tokenizer=pipe.tokenizer,
        assistant_model=getattr(call.assistant_model, "model", call.assistant_model),
        assistant_tokenizer=call.assistant_tokenizer,
    )
    if not hasattr(output, "sequences"):
        return {"generated_sequence": output[None]}
    kept = {name: output[name] for name in ("scores", "logits", "sequences_scores") if name in output}
    return {"generated_sequence": output.sequences[None], **kept}


def records(tokenizer: Any, outputs: Mapping[str, Any], call: CallOptions) -> list[dict[str, Any]]:
    """Return a record for each row of "generated_sequence" of one prompt."""
    num_prompt = outputs["input_ids"].shape[1]
    return_type = call.chosen_return_type()
    result = []
    for ids in outputs["generated_sequence"][0].tolist():
        if return_type is ReturnType.TENSORS:
            result.append({"generated_token_ids": ids})
            continue
        how: dict[str, Any] = {"skip_special_tokens": call.skip_special_tokens}
        if call.clean_up_tokenization_spaces is not None:
            how["clean_up_tokenization_spaces"] = call.clean_up_tokenization_spaces
        text = tokenizer.decode(ids[num_prompt:], **how)
        is_full = return_type is ReturnType.FULL_TEXT
        result.append({"generated_text": with_reply(outputs["prompt_text"], text, call) if is_full else text})
    return result
