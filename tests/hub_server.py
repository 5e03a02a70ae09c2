"""A server on the loopback that plays the model hub: names, revisions, tokens, ranges, faults and commits."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest
from huggingface_hub import constants


@dataclass
class Repository:
    """Files by commit; branches and tags by name. With `token` set, requests need it."""

    commits: dict[str, dict[str, bytes]]
    revisions: dict[str, str]
    token: str | None = None
    is_gated: bool = False
    is_private: bool = False
    messages: list[str] = field(default_factory=list)  # of commits that were pushed


@dataclass
class Hub:
    """The state of the server, which tests change and look at."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    log: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, Range header
    cut_once: dict[str, int] = field(default_factory=dict)  # file name -> bytes to send before hanging up
    status: int | None = None  # answer everything with this
    user: str = "me"  # in whose namespace repositories are made
    large: dict[str, bytes] = field(default_factory=dict)  # SHA-256 -> content that was stored apart

    def add(self, name: str, files: dict[str, bytes], revision: str = "main") -> str:
        """Add a commit and point a branch or tag at it; gives the commit's hash."""
        digest = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        repository = self.repositories.setdefault(name, Repository({}, {}))
        repository.commits[digest] = files
        repository.revisions[revision] = digest
        return digest

    def downloads(self) -> list[str]:
        """The files whose content was sent, in order."""
        return [path.split("/resolve/", 1)[1].split("/", 1)[1] for verb, path, _ in self.log
                if verb == "GET" and "/resolve/" in path]  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""

    def answer(self) -> None:
        path = unquote(self.path.split("?")[0])
        self.hub.log.append((self.command, path, self.headers.get("Range")))
        if self.hub.status is not None:
            self.body()
            return self.send(self.hub.status, b"")
        if self.command in ("POST", "PUT"):
            return self.accept(path, self.body())
        if path.startswith("/api/models/"):
            name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            found = self.find(name, revision or "main")
            if found is not None:
                commit, files = found
                siblings = [{"rfilename": file} for file in files]
                self.send(200, json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode())
        elif "/resolve/" in path:
            name, _, rest = path[1:].partition("/resolve/")
            revision, _, file = rest.partition("/")
            found = self.find(name, revision)
            if found is not None:
                self.send_file(found[0], found[1], file)
        else:
            self.send(404, b"")

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def accept(self, path: str, body: bytes) -> None:
        """Take what is pushed: repositories, branches, large files and commits."""
        if path == "/api/validate-yaml":
            return self.send_json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path.startswith("/large/"):
            assert hashlib.sha256(body).hexdigest() == path.removeprefix("/large/")
            self.hub.large[path.removeprefix("/large/")] = body
            return self.send(200, b"")
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.send_json(
                {"transfer": "basic", "objects": [self.upload(o) for o in json.loads(body)["objects"]]}
            )
        name, _, action = path.removeprefix("/api/models/").rpartition("/")[0].rpartition("/")
        repository, revision = self.hub.repositories.get(name), path.rpartition("/")[2]
        if repository is None:
            return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        if repository.token is not None and self.headers.get("Authorization") != f"Bearer {repository.token}":
            return self.send(403, b"")
        if action == "branch":
            if revision in repository.revisions:
                return self.send(409, b"")
            repository.revisions[revision] = repository.revisions["main"]
            return self.send_json({})
        if action == "preupload":
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for f in json.loads(body)["files"]
            ]
            return self.send_json({"files": modes})
        assert action == "commit", path
        self.commit(name, repository, revision, [json.loads(line) for line in body.splitlines()])

    def create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted.get('organization') or self.hub.user}/{wanted['name']}"
        answer = {"url": f"{self.hub.url}/{name}"}
        if name in self.hub.repositories:
            return self.send_json(answer, 409)
        if not name.startswith(f"{self.hub.user}/"):
            return self.send(403, b"")
        self.hub.add(name, {})
        self.hub.repositories[name].is_private = (
            wanted.get("visibility") == "private" or wanted.get("private") is True
        )
        self.send_json(answer)

    def upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Say where a large file goes, or that it is here already."""
        if wanted["oid"] in self.hub.large:
            return wanted
        return wanted | {"actions": {"upload": {"href": f"{self.hub.url}/large/{wanted['oid']}"}}}

    def commit(self, name: str, repository: Repository, revision: str, lines: list[dict[str, Any]]) -> None:
        files = dict(repository.commits[repository.revisions[revision]])
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repository.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "lfsFile"
                files[value["path"]] = self.hub.large[value["oid"]]
        is_proposal = "create_pr=1" in self.path
        commit = self.hub.add(name, files, "refs/pr/1" if is_proposal else revision)
        address = f"{self.hub.url}/{name}"
        self.send_json({
            "commitUrl": f"{address}/commit/{commit}",
            "commitOid": commit,
            "pullRequestUrl": f"{address}/discussions/1" if is_proposal else None,
        })  # fmt: skip

    def send_json(self, answer: dict[str, Any], status: int = 200) -> None:
        self.send(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
            return None
        if repository.token is not None and self.headers.get("Authorization") != f"Bearer {repository.token}":
            code = "GatedRepo" if repository.is_gated else "RepoNotFound"
            self.send(403 if repository.is_gated else 401, b"", {"X-Error-Code": code})
            return None
        commit = repository.revisions.get(revision, revision)
        if commit not in repository.commits:
            self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return None
        return commit, repository.commits[commit]

    def send_file(self, commit: str, files: dict[str, bytes], file: str) -> None:
        if file not in files:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        content = files[file]
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}
        status, asked = 200, self.headers.get("Range")
        if asked is not None:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            status, content = 206, content[start:]
        cut = self.hub.cut_once.pop(file, None) if self.command == "GET" else None
        self.send(status, content, headers, cut)

    def send(
        self, status: int, content: bytes, headers: dict[str, str] | None = None, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:cut])
        if cut is not None:
            self.close_connection = True


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub on a free port of the loopback."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make huggingface_hub, which reads its environment once, ask this server."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
