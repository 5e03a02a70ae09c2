"""Model names: what is downloaded, what is found in the cache, and what each failure says."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

import hub_server
from gpt2kit.checkpoint import open_checkpoint, save_checkpoint
from gpt2kit.checkpoint.names import trunk_shapes
from gpt2kit.config import AutoConfig, GPT2Config
from gpt2kit.errors import HubError
from gpt2kit.hub import resolve_folder
from hub_server import point_to

TINY = GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=9, n_positions=4)


def model_files(tmp_path: Path, **options: object) -> dict[str, bytes]:
    folder = tmp_path / f"source{len(list(tmp_path.iterdir()))}"
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape, np.float32) for name, shape in trunk_shapes(TINY).items()}
    save_checkpoint(folder, weights, TINY, **options)  # type: ignore[arg-type]
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return {
        **files,
        "vocab.json": b"{}",
        "merges.txt": b"#",
        "README.md": b"read",
        "tf_model.h5": b"h5",
        "onnx/model.onnx": b"o",
    }


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def test_only_needed_files_are_downloaded_and_only_once(hub: hub_server.Hub, tmp_path: Path) -> None:
    files = {**model_files(tmp_path), "pytorch_model.bin": b"pickle"}
    commit = hub.add("openai-community/gpt2", files)
    folder = resolve_folder("openai-community/gpt2")
    assert names(folder) == ["config.json", "merges.txt", "model.safetensors", "vocab.json"]
    assert folder == tmp_path / "cache" / "models--openai-community--gpt2" / "snapshots" / commit
    assert all((folder / name).read_bytes() == files[name] for name in names(folder))
    assert (tmp_path / "cache" / "models--openai-community--gpt2" / "refs" / "main").read_text() == commit
    hub.log.clear()
    assert resolve_folder("openai-community/gpt2") == folder
    assert [path for _, path, _ in hub.log] == ["/api/models/openai-community/gpt2/revision/main"]
    assert open_checkpoint("openai-community/gpt2").config.n_embd == 4


def test_cache_is_the_one_of_the_library(hub: hub_server.Hub, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    files = model_files(tmp_path)
    hub.add("gpt2", files)
    for file in ("config.json", "merges.txt", "model.safetensors", "vocab.json"):
        hf_hub_download("gpt2", file, endpoint=hub.url)
    hub.log.clear()
    assert open_checkpoint("gpt2").config.n_embd == 4
    assert hub.downloads() == []


def test_short_and_full_name_share_what_is_cached(hub: hub_server.Hub, tmp_path: Path) -> None:
    files = model_files(tmp_path)
    hub.add("gpt2", files)
    hub.add("openai-community/gpt2", files)
    folder = resolve_folder("gpt2")
    hub.log.clear()
    assert resolve_folder("openai-community/gpt2") == folder
    assert hub.downloads() == []
    assert resolve_folder("openai-community/gpt2", local_files_only=True) == folder


def test_new_commit_is_downloaded_and_unchanged_files_are_not(hub: hub_server.Hub, tmp_path: Path) -> None:
    files = model_files(tmp_path)
    first = hub.add("me/model", files)
    old = resolve_folder("me/model")
    second = hub.add("me/model", {**files, "vocab.json": b'{"new": 1}'})
    hub.log.clear()
    new = resolve_folder("me/model")
    assert (old.name, new.name) == (first, second)
    assert hub.downloads() == ["vocab.json"]  # the others have the entity tag that is cached
    assert (new / "vocab.json").read_bytes() == b'{"new": 1}'
    assert resolve_folder("me/model", revision=first) == old
    assert resolve_folder("me/model", local_files_only=True) == new


def test_revision_is_a_branch_a_tag_or_a_commit(hub: hub_server.Hub, tmp_path: Path) -> None:
    files = model_files(tmp_path)
    hub.add("me/model", files)
    tagged = hub.add("me/model", {**files, "vocab.json": b'{"tag": 1}'}, revision="v1.0")
    assert resolve_folder("me/model", revision="v1.0").name == tagged
    assert resolve_folder("me/model", revision=tagged).name == tagged
    assert resolve_folder("me/model", revision="v1.0", local_files_only=True).name == tagged
    with pytest.raises(HubError, match="has no revision 'v9'"):
        resolve_folder("me/model", revision="v9")


def test_subfolder(hub: hub_server.Hub, tmp_path: Path) -> None:
    files = {f"deep/er/{name}": content for name, content in model_files(tmp_path).items()}
    hub.add("me/model", {**files, "config.json": b"not this one"})
    folder = resolve_folder("me/model", subfolder="deep/er")
    assert names(folder) == ["config.json", "merges.txt", "model.safetensors", "vocab.json"]
    assert AutoConfig.from_pretrained("me/model", subfolder="deep/er").n_embd == 4
    assert open_checkpoint("me/model", subfolder="deep/er", local_files_only=True).folder == folder


def test_shards_are_downloaded_and_an_incomplete_set_is_not_taken_for_the_model(
    hub: hub_server.Hub, tmp_path: Path
) -> None:
    files = model_files(tmp_path, max_shard_size=300)
    shards = sorted(name for name in files if "-of-" in name)
    assert len(shards) > 1
    hub.add("me/model", files)
    folder = resolve_folder("me/model")
    assert {*shards, "model.safetensors.index.json"} <= set(names(folder))
    assert open_checkpoint("me/model").names() == sorted(trunk_shapes(TINY))
    (folder / shards[0]).unlink()
    with pytest.raises(HubError, match="is not complete in the cache"):
        resolve_folder("me/model", local_files_only=True)


def test_pickle_is_downloaded_only_when_allowed_and_only_without_safetensors(
    hub: hub_server.Hub, tmp_path: Path
) -> None:
    files = model_files(tmp_path)
    hub.add("me/both", {**files, "pytorch_model.bin": b"pickle"})
    del files["model.safetensors"]
    hub.add("me/pickle", {**files, "pytorch_model.bin": b"pickle"})
    assert "pytorch_model.bin" not in names(resolve_folder("me/both", allow_pickle=True))
    assert "pytorch_model.bin" not in names(resolve_folder("me/pickle"))
    assert "pytorch_model.bin" in names(resolve_folder("me/pickle", allow_pickle=True))


def test_variant(hub: hub_server.Hub, tmp_path: Path) -> None:
    files = model_files(tmp_path)
    hub.add("me/model", {**files, "model.fp16.safetensors": files["model.safetensors"]})
    assert "model.safetensors" not in names(resolve_folder("me/model", variant="fp16"))
    assert open_checkpoint("me/model", variant="fp16").config.n_embd == 4


def test_interrupted_download_is_resumed_where_it_stopped(
    hub: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)  # it keeps whole chunks only
    files = model_files(tmp_path)
    hub.add("me/model", files)
    hub.cut_once["model.safetensors"] = 1000
    folder = resolve_folder("me/model")
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    ranges = [asked for verb, path, asked in hub.log if verb == "GET" and path.endswith("model.safetensors")]
    assert ranges == [None, "bytes=1000-"]


def test_download_that_fails_is_not_taken_for_the_model_and_can_be_repeated(
    hub: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    files = model_files(tmp_path)
    hub.add("me/model", files)
    real = huggingface_hub.hf_hub_download

    def no_space(repo_id: str, filename: str, **options: object) -> str:
        if filename == "model.safetensors":
            raise OSError(28, "No space left on device")
        return real(repo_id, filename, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_space)
    with pytest.raises(HubError, match="No space left"):
        resolve_folder("me/model")
    with pytest.raises(HubError, match="not complete"):
        resolve_folder("me/model", local_files_only=True)
    monkeypatch.undo()
    point_to(hub.url, monkeypatch)
    hub.log.clear()
    folder = resolve_folder("me/model", cache_dir=tmp_path / "cache")
    assert hub.downloads() == ["model.safetensors"]
    assert open_checkpoint(folder).config.n_embd == 4


def test_force_download_fetches_again(hub: hub_server.Hub, tmp_path: Path) -> None:
    hub.add("me/model", model_files(tmp_path))
    folder = resolve_folder("me/model")
    blob = (folder / "vocab.json").resolve()
    blob.write_bytes(b"damaged")
    assert (resolve_folder("me/model") / "vocab.json").read_bytes() == b"damaged"
    assert (resolve_folder("me/model", force_download=True) / "vocab.json").read_bytes() == b"{}"


def test_patterns_choose_the_files(hub: hub_server.Hub, tmp_path: Path) -> None:
    hub.add("me/model", model_files(tmp_path))
    assert names(resolve_folder("me/model", allow_patterns=["config.json", "vocab*"])) == [
        "config.json",
        "vocab.json",
    ]
    with pytest.raises(HubError, match="none of the files that are needed"):
        resolve_folder("me/model", allow_patterns=["tokenizer.json"])
    with pytest.raises(HubError, match="not complete"):  # a configuration alone is not the model
        resolve_folder("me/model", local_files_only=True)


def test_token_is_sent_and_its_lack_is_explained(hub: hub_server.Hub, tmp_path: Path) -> None:
    hub.add("me/private", model_files(tmp_path))
    hub.repositories["me/private"].token = "secret"
    with pytest.raises(HubError, match=r"'me/private' is not on the hub, or is private.*token="):
        resolve_folder("me/private")
    hub.repositories["me/private"].is_gated = True
    with pytest.raises(HubError, match="'me/private' is gated"):
        resolve_folder("me/private", token="wrong")
    assert (resolve_folder("me/private", token="secret") / "model.safetensors").is_file()
    assert resolve_folder("me/private", token="secret", local_files_only=True).is_dir()


def test_name_that_does_not_exist_is_explained(hub: hub_server.Hub) -> None:
    with pytest.raises(HubError, match="'me/nothing' is not on the hub"):
        resolve_folder("me/nothing")


@pytest.mark.parametrize("status", [500, 503, 429])
def test_hub_in_trouble_is_no_error_when_the_cache_has_the_files(
    hub: hub_server.Hub, tmp_path: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add("me/model", model_files(tmp_path))
    folder = resolve_folder("me/model")
    hub.status = status
    assert resolve_folder("me/model") == folder
    assert "using the copy in the cache" in caplog.text
    with pytest.raises(HubError, match=rf"answered {status}.* no complete copy"):
        resolve_folder("me/other")
    with pytest.raises(HubError, match="drop force_download"):
        resolve_folder("me/model", force_download=True)


def test_network_down(hub: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("me/model", model_files(tmp_path))
    folder = resolve_folder("me/model")
    point_to("http://127.0.0.1:9", monkeypatch)  # nothing listens there
    assert resolve_folder("me/model") == folder
    with pytest.raises(HubError, match=r"cannot be reached for 'me/other'.* no complete copy"):
        resolve_folder("me/other")


def test_offline_makes_no_request(
    hub: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("me/model", model_files(tmp_path))
    with pytest.raises(HubError, match=r"local_files_only is set, and 'me/model' \(main\) is not complete"):
        resolve_folder("me/model", local_files_only=True)
    folder = resolve_folder("me/model")
    hub.log.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_folder("me/model") == folder
    with pytest.raises(HubError, match=r"HF_HUB_OFFLINE is set, and 'me/other'.*download it once"):
        resolve_folder("me/other")
    assert hub.log == []


@pytest.mark.parametrize(
    "name", ["a/b/c", "/no/such", "./no", "~user", "a//b", "-x", "a\\b", "a b", "a/..", "x\0y", "a" * 200]
)  # fmt: skip
def test_what_is_neither_folder_nor_name_is_refused_without_a_request(name: str, hub: hub_server.Hub) -> None:
    with pytest.raises(HubError, match="neither a folder that exists nor a name"):
        resolve_folder(name)
    assert hub.log == []


@pytest.mark.parametrize("part", ["..", "../x", "/etc", "a/../../b", "a\\b"])
def test_subfolder_and_revision_do_not_lead_out(part: str, hub: hub_server.Hub, tmp_path: Path) -> None:
    for options in ({"subfolder": part}, {"revision": part}):
        with pytest.raises(HubError, match="relative name without"):
            resolve_folder("me/model", **options)
    assert hub.log == []


def test_local_folder_is_given_back_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert resolve_folder(tmp_path) == tmp_path
    assert resolve_folder(str(tmp_path), subfolder="a") == tmp_path / "a"
    with pytest.raises(HubError, match="has no subfolder 'b'"):
        resolve_folder(tmp_path, subfolder="b")


CHILD = """
import sys
from gpt2kit.checkpoint import open_checkpoint
from gpt2kit.errors import HubError
try:
    print(open_checkpoint(sys.argv[1]).folder)
except HubError as error:
    print("HubError:", error)
"""


def test_environment_variables_are_the_library_s(hub: hub_server.Hub, tmp_path: Path) -> None:
    hub.add("me/model", model_files(tmp_path))
    hub.repositories["me/model"].token = "from-the-environment"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    env = {**clean, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "NO_PROXY": "*"}

    def run(name: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", CHILD, name],
            env={**env, **more},
            capture_output=True,
            text=True,
            check=True,
        )

    done = run("me/model", HF_TOKEN="from-the-environment")
    assert Path(done.stdout.strip()).parent.parent == tmp_path / "home" / "hub" / "models--me--model"
    hub.log.clear()
    assert run("me/model", TRANSFORMERS_OFFLINE="1").stdout == done.stdout
    assert run("me/other", HF_HUB_OFFLINE="YES").stdout.startswith("HubError: HF_HUB_OFFLINE is set")
    assert hub.log == []


def test_download_shows_its_progress_on_a_terminal(hub: hub_server.Hub, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    hub.add("me/model", model_files(tmp_path))
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    env = {**clean, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "NO_PROXY": "*", "CI": ""}
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    try:
        subprocess.run(
            [sys.executable, "-c", CHILD, "me/model"],
            env=env,
            stdout=subprocess.PIPE,
            stderr=theirs,
            check=True,
        )
        shown = os.read(ours, 2**16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "model.safetensors" in shown
    assert "100%" in shown


def test_listing_that_names_files_outside_does_not_write_there(hub: hub_server.Hub, tmp_path: Path) -> None:
    files = model_files(tmp_path)
    hub.add("me/model", {**files, "../../../evil.json": b"x", "config.json/../../vocab.json": b"x"})
    folder = resolve_folder("me/model")
    assert names(folder) == ["config.json", "merges.txt", "model.safetensors", "vocab.json"]
    assert json.loads((folder / "config.json").read_text())["n_embd"] == 4
