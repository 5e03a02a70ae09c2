"""Chat templates: from messages to the text of a prompt, in a sandbox that a template cannot leave."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gpt2kit.errors import MissingDependencyError, TokenizerError

if TYPE_CHECKING:
    from gpt2kit.tokenizer.encoding import Encoding
    from gpt2kit.tokenizer.gpt2 import GPT2Tokenizer

Span = tuple[int, int]  # characters that the assistant has written

# Stands at the end of the message that is to be continued while the template is rendered.
_CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG "
# Older versions of jinja2 have known ways out of the sandbox.
_MIN_JINJA = (3, 1, 6)


def get_chat_template(
    tokenizer: GPT2Tokenizer, chat_template: str | None = None, tools: Sequence[Any] | None = None
) -> str:
    """Give the template that a call means: the argument (a template or its name), or the tokenizer's own."""
    own = tokenizer.chat_template
    if isinstance(own, Mapping):
        if chat_template is not None:
            return own.get(chat_template, chat_template)
        if tools is not None and "tool_use" in own:
            return own["tool_use"]
        if "default" in own:
            return own["default"]
        raise TokenizerError(
            f"the tokenizer has the chat templates {sorted(own)} and no default; name one of them"
        )
    template = own if chat_template is None else chat_template
    if template is None:
        raise TokenizerError(
            "the tokenizer has no chat template (GPT-2 is not a chat model); set tokenizer.chat_template "
            "or pass "
            "chat_template"
        )
    return template


def apply_chat_template(
    tokenizer: GPT2Tokenizer,
    conversation: Any,
    tools: Sequence[Any] | None = None,
    documents: Sequence[Any] | None = None,
    chat_template: str | None = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool | str = False,
    tokenize: bool = True,
    padding: Any = False,
    truncation: Any = False,
    max_length: int | None = None,
    return_tensors: Any = None,
    return_dict: bool = True,
    return_assistant_tokens_mask: bool = False,
    tokenizer_kwargs: Mapping[str, Any] | None = None,
    **variables: Any,
) -> Any:
    """Render a chat, or a list of chats, and encode it.

    conversation: messages with "role" and "content". continue_final_message: leave the last message open (a
    str names its field). variables go to the template. Returns a BatchEncoding; with return_dict=False the
    ids; with tokenize=False the text. return_assistant_tokens_mask adds "assistant_masks": 1 for what
    {% generation %} blocks hold.
    """
    if return_assistant_tokens_mask and not (return_dict and tokenize):
        raise TokenizerError("return_assistant_tokens_mask needs return_dict=True and tokenize=True")
    if continue_final_message and (add_generation_prompt or return_assistant_tokens_mask):
        raise TokenizerError(
            "continue_final_message goes with neither add_generation_prompt nor return_assistant_tokens_mask"
        )
    if variables.get("sanitize_control_tokens"):
        raise TokenizerError(
            "sanitize_control_tokens is not supported; render with tokenize=False and encode the user's "
            "texts with "
            "split_special_tokens=True"
        )
    if len(conversation) == 0:
        raise TokenizerError("the conversation is empty; give at least one message")
    is_batch = isinstance(conversation[0], (list, tuple)) or hasattr(conversation[0], "messages")
    texts, spans = render_chats(
        get_chat_template(tokenizer, chat_template, tools),
        conversation if is_batch else [conversation],
        tools=tools,
        documents=documents,
        add_generation_prompt=add_generation_prompt,
        continue_field=continue_final_message
        if isinstance(continue_final_message, str)
        else "content"
        if continue_final_message
        else None,
        variables=tokenizer.special_tokens_map | variables,
    )
    if not tokenize:
        return texts if is_batch else texts[0]
    given = dict(padding=padding, truncation=truncation, max_length=max_length, return_tensors=return_tensors)
    encoded = tokenizer(
        texts if is_batch else texts[0],
        add_special_tokens=False,
        tokenizer_kwargs=given | dict(tokenizer_kwargs or {}),
    )
    if not return_dict:
        return encoded["input_ids"]
    if return_assistant_tokens_mask:
        masks = [
            _assistant_mask(encoding, row)
            for encoding, row in zip(encoded.encodings or (), spans, strict=True)
        ]
        encoded["assistant_masks"] = masks if is_batch or return_tensors else masks[0]
        encoded.convert_to_tensors(return_tensors)
    return encoded


def parse_response(tokenizer: GPT2Tokenizer, response: Any, schema: Any = None, **options: Any) -> Any:
    """Refuse: response templates describe what chat models write, and there is none for GPT-2."""
    raise TokenizerError(
        "parse_response reads a chat model's reply by its response_template; GPT-2 tokenizers have none, "
        "and gpt2kit "
        "does not interpret them"
    )


def _assistant_mask(encoding: Encoding, spans: Sequence[Span]) -> list[int]:
    return [
        int(sequence is not None and any(begin < stop and start < end for start, stop in spans))
        for (begin, end), sequence in zip(encoding.offsets, encoding.sequence_ids, strict=True)
    ]


def render_chats(
    template: str,
    chats: Sequence[Any],
    *,
    tools: Sequence[Any] | None,
    documents: Sequence[Any] | None,
    add_generation_prompt: bool,
    continue_field: str | None,
    variables: Mapping[str, Any],
) -> tuple[list[str], list[list[Span]]]:
    """Render chats; also gives what stands in {% generation %} blocks.

    continue_field: the field of the last message that the text ends with, or None.
    Raises TokenizerError with the template's own message if it refuses the chat.
    """
    import_jinja()
    for tool in tools or ():
        if not isinstance(tool, Mapping):
            raise TokenizerError(f"each tool must be a JSON schema as a dict, not {tool!r:.60}")
    for document in documents or ():
        if not isinstance(document, Mapping):
            raise TokenizerError(f"each document must be a dict with title and text, not {document!r:.60}")
    texts, spans = [], []
    for chat in chats:
        messages = [_message(message) for message in getattr(chat, "messages", chat)]
        ending = None if continue_field is None else _mark_continuation(messages, continue_field)
        try:
            compiled, tracker = _compile(template)
            with tracker.track() as tracked:
                blocks = tracked.blocks
                for block in compiled.generate(
                    messages=messages,
                    tools=_plain(tools),
                    documents=_plain(documents),
                    add_generation_prompt=add_generation_prompt,
                    **_plain(variables),
                ):
                    blocks.append(block)
        except TokenizerError:
            raise
        except Exception as error:  # a template is foreign code, which may fail in any way
            raise TokenizerError(f"the chat template refused the chat: {error}") from error
        text = "".join(blocks)
        texts.append(text if ending is None else _cut_continuation(text, ending))
        spans.append(tracked.spans)
    return texts, spans


def import_jinja() -> None:
    """Check that jinja2 is there and safe."""
    try:
        import jinja2
    except ImportError:
        raise MissingDependencyError("chat templates need jinja2: pip install 'gpt2kit[chat]'") from None
    version = tuple(int(part) for part in jinja2.__version__.split(".")[:3] if part.isdecimal())
    if version < _MIN_JINJA:
        raise MissingDependencyError(
            f"chat templates need jinja2 3.1.6 or newer, where the sandbox is safe; {jinja2.__version__} "
            "is installed"
        )


class _Tracked:
    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.spans: list[Span] = []


class _Tracker(threading.local):
    """Knows which rendering this thread has under way, for {% generation %} to note where its text stands."""

    current: _Tracked | None = None

    @contextmanager
    def track(self) -> Iterator[_Tracked]:
        self.current = _Tracked()
        try:
            yield self.current
        finally:
            self.current = None

    def note(self, text: str) -> str:
        if self.current is not None:
            start = sum(map(len, self.current.blocks))
            self.current.spans.append((start, start + len(text)))
        return text


@lru_cache(maxsize=32)
def _compile(template: str) -> tuple[Any, _Tracker]:
    import jinja2.ext
    import jinja2.nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    tracker = _Tracker()

    class Generation(jinja2.ext.Extension):
        """{% generation %} ... {% endgeneration %}: what the assistant has written."""

        tags = {"generation"}  # noqa: RUF012  # jinja2's own declaration

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_note"), [], [], body).set_lineno(line)

        def _note(self, caller: Any) -> str:
            return tracker.note(caller())

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    try:
        return environment.from_string(template), tracker
    except jinja2.TemplateSyntaxError as error:
        raise TokenizerError(
            f"the chat template is not valid, line {error.lineno}: {error.message}"
        ) from None


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter writes HTML escapes.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _plain(value: Any) -> Any:
    """Copy a value as plain JSON types, so that a template sees no methods but theirs."""
    import numpy as np

    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (str, int, float, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if callable(getattr(value, "model_dump", None)):
        return _plain(value.model_dump())
    return f"<{type(value).__name__}>"


def _message(message: Any) -> dict[str, Any]:
    if callable(getattr(message, "model_dump", None)):
        message = message.model_dump()
    if not isinstance(message, Mapping):
        raise TokenizerError(f"a message must be a dict with role and content, not {message!r:.60}")
    # Some APIs send None for what is not there; templates test whether a key is.
    return {_plain(key): _plain(value) for key, value in message.items() if value is not None}


def _mark_continuation(messages: list[dict[str, Any]], field: str) -> str:
    """Put the tag at the end of the last message's field; returns the text before it."""
    value = messages[-1].get(field) if messages else None
    if isinstance(value, str):
        messages[-1][field] = value + _CONTINUE_TAG
        return value
    for block in reversed(value if isinstance(value, list) else []):
        if isinstance(block, dict) and isinstance(block.get("text"), str):
            ending: str = block["text"]
            block["text"] = ending + _CONTINUE_TAG
            return ending
    raise TokenizerError(f"continue_final_message needs text in the last message's {field!r}")


def _cut_continuation(text: str, ending: str) -> str:
    tag = _CONTINUE_TAG.strip()
    if ending.strip() not in text or tag not in text:
        raise TokenizerError(
            "continue_final_message is set, but the chat template leaves out or changes the last message"
        )
    at = text.rindex(tag)
    cut = text[:at]
    # A template that strips messages has taken the space after the tag, and would have taken those before it.
    return cut if text[at : at + len(_CONTINUE_TAG)] == _CONTINUE_TAG else cut.rstrip()
