"""push_to_hub: what is published is what save_pretrained writes, and comes back under the name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import hub_server
from fakes import write_tiny_model
from gpt2kit import AutoTokenizer, GenerationConfig, GPT2Config, GPT2LMHeadModel
from gpt2kit.errors import ConfigError, HubError

TINY = GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=9, n_positions=4, bos_token_id=0, eos_token_id=0)


def head(hub: hub_server.Hub, name: str, revision: str = "main") -> dict[str, bytes]:
    repository = hub.repositories[name]
    return repository.commits[repository.revisions[revision]]


def test_model_is_pushed_and_read_back(hub: hub_server.Hub) -> None:
    model = GPT2LMHeadModel(TINY)
    commit = model.push_to_hub("me/tiny", commit_message="first", private=True)
    assert sorted(head(hub, "me/tiny")) == ["config.json", "generation_config.json", "model.safetensors"]
    assert hub.repositories["me/tiny"].messages == ["first"]
    assert hub.repositories["me/tiny"].is_private
    assert commit.oid == hub.repositories["me/tiny"].revisions["main"]
    assert len(hub.large) == 1  # the weights were not sent as text
    back = GPT2LMHeadModel.from_pretrained("me/tiny")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), back.parameters(), strict=True))
    assert back.config.name_or_path == "me/tiny"


def test_shards_are_pushed_with_their_index(hub: hub_server.Hub) -> None:
    GPT2LMHeadModel(TINY).push_to_hub("me/tiny", max_shard_size=400)
    files = head(hub, "me/tiny")
    assert sum(name.startswith("model-0000") for name in files) > 1
    assert "model.safetensors.index.json" in files
    GPT2LMHeadModel.from_pretrained("me/tiny")


def test_saving_pushes_what_was_saved_and_nothing_else(hub: hub_server.Hub, tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "diary.txt").write_text("private")
    GPT2LMHeadModel(TINY).save_pretrained(folder, push_to_hub=True)
    assert sorted(head(hub, "me/my-model")) == ["config.json", "generation_config.json", "model.safetensors"]
    assert hub.repositories["me/my-model"].messages == ["Upload model"]
    assert (folder / "model.safetensors").is_file()


def test_parts_are_pushed_into_one_repository(hub: hub_server.Hub, tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "source")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "source")
    tokenizer.chat_template = {"default": "a", "other": "b"}
    TINY.push_to_hub("me/parts")
    tokenizer.push_to_hub("me/parts")
    GenerationConfig(max_new_tokens=3).push_to_hub("me/parts")
    assert hub.repositories["me/parts"].messages == [
        "Upload config",
        "Upload tokenizer",
        "Upload generation config",
    ]
    assert {"config.json", "vocab.json", "tokenizer.json", "generation_config.json"} <= head(
        hub, "me/parts"
    ).keys()
    assert "additional_chat_templates/other.jinja" in head(hub, "me/parts")
    assert AutoTokenizer.from_pretrained("me/parts").encode("hello") == tokenizer.encode("hello")
    assert GPT2Config.from_pretrained("me/parts") == TINY
    assert GenerationConfig.from_pretrained("me/parts").max_new_tokens == 3


def test_every_saving_pushes_when_asked(
    hub: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_model(tmp_path / "source")
    monkeypatch.chdir(tmp_path)
    AutoTokenizer.from_pretrained("source").save_pretrained("out", push_to_hub=True, repo_id="me/a")
    TINY.save_pretrained("out", push_to_hub=True, repo_id="me/a", commit_message="shape")
    GenerationConfig(max_new_tokens=3).save_pretrained("out", push_to_hub=True, repo_id="me/a")
    assert hub.repositories["me/a"].messages == ["Upload tokenizer", "shape", "Upload generation config"]
    assert set(head(hub, "me/a")) == {path.name for path in Path("out").iterdir()}


def test_branch_proposal_and_tags(hub: hub_server.Hub) -> None:
    TINY.push_to_hub("me/tiny")
    TINY.push_to_hub("me/tiny", revision="experiment")
    commit = TINY.push_to_hub("me/tiny", create_pr=True, tags=["english", "tiny"])
    assert set(hub.repositories["me/tiny"].revisions) == {"main", "experiment", "refs/pr/1"}
    assert commit.pr_url.endswith("/discussions/1")
    assert "README.md" not in head(hub, "me/tiny")
    assert b"tags:\n- english\n- tiny\n" in head(hub, "me/tiny", "refs/pr/1")["README.md"]


def test_tags_are_added_to_the_card_that_is_there(hub: hub_server.Hub) -> None:
    hub.add("me/tiny", {"README.md": b"---\nlicense: mit\ntags:\n- old\n---\n# Mine\n"})
    TINY.push_to_hub("me/tiny", tags=["old", "new"])
    card = head(hub, "me/tiny")["README.md"].decode()
    assert card == "---\nlicense: mit\ntags:\n- old\n- new\n---\n# Mine\n"


def test_token_is_sent_and_needed(hub: hub_server.Hub) -> None:
    hub.add("me/closed", {})
    hub.repositories["me/closed"].token = "secret"
    with pytest.raises(HubError, match=r"does not let you write to 'me/closed' \(403\)"):
        TINY.push_to_hub("me/closed")
    TINY.push_to_hub("me/closed", token="secret")
    assert set(head(hub, "me/closed")) == {"config.json"}


def test_failures_are_one_line(hub: hub_server.Hub) -> None:
    with pytest.raises(HubError, match="does not let you write to 'someone/else'"):
        TINY.push_to_hub("someone/else")
    with pytest.raises(HubError, match="cannot be the name of a repository"):
        TINY.push_to_hub("a/b/c")
    hub.status = 418
    with pytest.raises(HubError, match=r"the hub refuses to take 'me/tiny' \(418\)"):
        TINY.push_to_hub("me/tiny")


def test_options_of_the_hub_without_a_push_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="commit_message given without push_to_hub=True"):
        GPT2LMHeadModel(TINY).save_pretrained(tmp_path, commit_message="hello")
