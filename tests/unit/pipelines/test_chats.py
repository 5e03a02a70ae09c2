"""Chats: lists of messages, with the tokenizer's template, one of the call, or plain lines."""

from __future__ import annotations

import pytest

from gpt2kit.errors import PipelineError, TokenizerError
from gpt2kit.pipelines import PLAIN_CHAT_TEMPLATE, pipeline

pytest.importorskip("jinja2")

GREEDY = {"do_sample": False, "max_new_tokens": 5}
CHAT = [{"role": "user", "content": "hello"}]
BEGUN = [*CHAT, {"role": "assistant", "content": "well"}]


@pytest.fixture(scope="module")
def pipe(folders):
    return pipeline("text-generation", model=folders["text-generation"], **GREEDY)


def new_text(pipe, text):
    return pipe(text, return_full_text=False)[0]["generated_text"]


def test_a_chat_gets_the_reply_as_one_more_message(pipe):
    reply = new_text(pipe, "user: hello\nassistant:")
    expected = [{"generated_text": [*CHAT, {"role": "assistant", "content": reply}]}]
    assert pipe(CHAT, chat_template="plain") == expected
    assert pipe(CHAT, chat_template=PLAIN_CHAT_TEMPLATE) == expected
    assert pipe([CHAT], chat_template="plain") == [expected]
    assert CHAT == [{"role": "user", "content": "hello"}]
    only_new = pipe(CHAT, chat_template="plain", return_full_text=False)
    assert only_new == [{"generated_text": reply}]


def test_a_chat_that_ends_with_the_assistant_is_continued(pipe):
    more = new_text(pipe, "user: hello\nassistant: well")
    expected = [{"generated_text": [*CHAT, {"role": "assistant", "content": "well" + more}]}]
    assert pipe(BEGUN, chat_template="plain") == expected
    reply = new_text(pipe, "user: hello\nassistant: well\nassistant:")
    (record,) = pipe(BEGUN, chat_template="plain", continue_final_message=False)
    assert record["generated_text"] == [*BEGUN, {"role": "assistant", "content": reply}]
    (record,) = pipe(CHAT, chat_template="plain", continue_final_message=True)
    assert record["generated_text"] == [{"role": "user", "content": "hello" + new_text(pipe, "user: hello")}]


def test_chats_and_texts_may_stand_in_one_list_and_come_from_a_generator(folders):
    pipe = pipeline("text-generation", model=folders["text-generation"], **GREEDY)
    pipe.tokenizer.chat_template = PLAIN_CHAT_TEMPLATE
    expected = [pipe("hello"), pipe(CHAT), pipe(BEGUN)]
    assert pipe(["hello", CHAT, BEGUN]) == expected
    assert list(pipe(item for item in ["hello", CHAT, BEGUN])) == expected


def test_the_template_of_the_tokenizer_s_folder_is_used(folders, tmp_path):
    import shutil

    folder = tmp_path / "chatty"
    shutil.copytree(folders["text-generation"], folder)
    (folder / "chat_template.jinja").write_text(
        "{{ messages[-1]['content'] }}{% if add_generation_prompt %}:{% endif %}"
    )
    pipe = pipeline("text-generation", model=folder, **GREEDY)
    assert pipe(CHAT)[0]["generated_text"][-1]["content"] == new_text(pipe, "hello:")
    saved = tmp_path / "saved"
    pipe.save_pretrained(saved)
    assert pipeline(model=saved, **GREEDY)(CHAT) == pipe(CHAT)


def test_tools_and_documents_reach_the_template(pipe):
    template = "{{ tools[0]['name'] }}{{ documents[0]['text'] }}{{ messages[0]['content'] }}"
    options = {"tools": [{"name": "f"}], "documents": [{"title": "a", "text": "b"}]}
    (record,) = pipe(CHAT, chat_template=template, return_full_text=False, **options)
    assert record["generated_text"] == new_text(pipe, "fbhello")


def test_a_chat_can_be_streamed_and_generated(pipe):
    reply = new_text(pipe, "user: hello\nassistant:")
    assert "".join(pipe.stream(CHAT, chat_template="plain")) == reply
    assert pipe.generate([CHAT], chat_template="plain")[0].text == reply


def test_without_a_template_the_error_says_what_to_do(pipe):
    for chats in (CHAT, [CHAT]):
        with pytest.raises(
            PipelineError, match=r"no chat template .*pass chat_template=.*chat_template='plain'"
        ):
            pipe(chats)


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        ("hello", {"tools": [{}]}, PipelineError, "tools is for chats, and the prompt is a text"),
        ("hello", {"documents": [{}]}, PipelineError, "documents is for chats"),
        ("hello", {"continue_final_message": True}, PipelineError, "continue_final_message is for chats"),
        ("hello", {"chat_template": "plain"}, PipelineError, "chat_template is for chats"),
        (CHAT, {"prefix": "a"}, PipelineError, "prefix is for texts, and the prompt is a chat"),
        (CHAT, {"chat_template": "{{"}, TokenizerError, "chat template is not valid"),
        (CHAT, {"chat_template": "plain", "tools": [3]}, TokenizerError, "each tool must be a JSON schema"),
    ],
)
def test_what_does_not_go_together_is_refused(pipe, prompt, options, error, message):
    with pytest.raises(error, match=message):
        pipe(prompt, **options)
