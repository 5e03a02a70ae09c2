"""A server on the loopback that plays the model hub: names, revisions, tokens, ranges and faults."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


@dataclass
class Repository:
    """Files by commit; branches and tags by name. With `token` set, requests need it."""

    commits: dict[str, dict[str, bytes]]
    revisions: dict[str, str]
    token: str | None = None
    is_gated: bool = False


@dataclass
class Hub:
    """The state of the server, which tests change and look at."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    log: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, Range header
    cut_once: dict[str, int] = field(default_factory=dict)  # file name -> bytes to send before hanging up
    status: int | None = None  # answer everything with this

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

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""

    def answer(self) -> None:
        path = unquote(self.path.split("?")[0])
        self.hub.log.append((self.command, path, self.headers.get("Range")))
        if self.hub.status is not None:
            return self.send(self.hub.status, b"")
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
        if self.command == "GET":
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
