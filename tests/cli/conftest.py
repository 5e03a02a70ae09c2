import io
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from fakes import write_tiny_model
from gpt2kit.cli.main import main


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    """A tiny model in a folder whose name needs care."""
    folder = tmp_path_factory.mktemp("models") / "tiny \u00e9 model"
    write_tiny_model(folder)
    return str(folder)


@pytest.fixture
def cli(capfd, monkeypatch):
    """Run the command line in this process; give its exit code, stdout and stderr."""

    def run(*args: str, stdin: bytes | None = None):
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main([str(arg) for arg in args])
        captured = capfd.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return run


@pytest.fixture
def process():
    """Start the command line as a process of its own."""

    def start(*args: str, environment: dict[str, str] | None = None, **options) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "gpt2kit", *args],
            env={**os.environ, **(environment or {})},
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=options.pop("stderr", subprocess.PIPE),
            **options,
        )

    return start
