"""Prompts of text generation: texts and chats, to token ids and back with the reply in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpt2kit.errors import PipelineError
from gpt2kit.pipelines.call_options import CallOptions

Message = dict[str, Any]
Prompt = str | list[Message]

# A way to write chats for models that were trained on none: chat_template="plain".
PLAIN_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def is_prompt(item: Any) -> bool:
    """Tell whether an input is one prompt: a text, or messages of one chat."""
    return isinstance(item, str) or (
        isinstance(item, (list, tuple)) and len(item) > 0 and _is_message(item[0])
    )


def checked_prompts(prompts: Sequence[Any]) -> list[Prompt]:
    """Return prompts with chats as lists. Raises PipelineError for what is no prompt."""
    checked: list[Prompt] = []
    for index, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            checked.append(prompt)
        elif is_prompt(prompt) and all(_is_message(message) for message in prompt):
            checked.append(list(prompt))
        else:
            raise PipelineError(
                f"prompt {index} must be a string, or a chat: a list of messages, each a dict with 'role' and "
                f"'content'; got {prompt!r:.80}"
            )
    return checked


def encode_prompt(tokenizer: Any, prompt: Prompt, call: CallOptions, max_length: int) -> list[int]:
    """Return the ids of a prompt; max_length is how far truncation, if it is asked for, cuts.

    Raises PipelineError for options of chats with a text, and for a chat without a template.
    """
    how: dict[str, Any] = {}
    if call.truncation is not None:
        how = {"truncation": call.truncation, "max_length": max_length}
    if isinstance(prompt, str):
        for name in ("tools", "documents", "continue_final_message", "chat_template"):
            if getattr(call, name) is not None:
                raise PipelineError(f"{name} is for chats, and the prompt is a text; pass a list of messages")
        if call.add_special_tokens is not None:
            how["add_special_tokens"] = call.add_special_tokens
        ids: list[int] = tokenizer(call.prefix + prompt, **how, **call.tokenizer_encode_kwargs)["input_ids"]
        return ids
    if call.prefix:
        raise PipelineError("prefix is for texts, and the prompt is a chat; put it into a message")
    continues = _continues(prompt, call)
    encoded = tokenizer.apply_chat_template(
        prompt,
        add_generation_prompt=not continues,
        continue_final_message=continues,
        return_dict=True,
        tools=call.tools,
        documents=call.documents,
        **{**how, **_template(tokenizer, call), **call.tokenizer_encode_kwargs},
    )
    return list(encoded["input_ids"])


def with_reply(prompt: Prompt, text: str, call: CallOptions) -> Prompt:
    """Return a prompt with the new text: behind a text, as or in the last message of a chat."""
    if isinstance(prompt, str):
        return prompt + text
    if _continues(prompt, call):
        last = prompt[-1]
        return [*prompt[:-1], {"role": last["role"], "content": last["content"] + text}]
    return [*prompt, {"role": "assistant", "content": text}]


def _is_message(item: Any) -> bool:
    return isinstance(item, dict) and "role" in item and "content" in item


def _continues(chat: list[Message], call: CallOptions) -> bool:
    """Tell whether the last message is to be continued: by default when it is the assistant's."""
    if call.continue_final_message is not None:
        return call.continue_final_message
    return bool(chat[-1]["role"] == "assistant")


def _template(tokenizer: Any, call: CallOptions) -> dict[str, Any]:
    """Return the template to pass to the tokenizer, if it is not the tokenizer's own."""
    if call.chat_template is not None:
        return {"chat_template": PLAIN_CHAT_TEMPLATE if call.chat_template == "plain" else call.chat_template}
    if (
        getattr(tokenizer, "chat_template", None) is None
        and "chat_template" not in call.tokenizer_encode_kwargs
    ):
        raise PipelineError(
            "the tokenizer has no chat template (GPT-2 is not a chat model): pass chat_template=, a Jinja "
            "template, or chat_template='plain' for lines of 'role: content'; or set tokenizer.chat_template"
        )
    return {}
