"""The README's and the examples' code runs, and documents point at files that are there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUANTIZATION = (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
DOCUMENTS = sorted(
    path for path in ROOT.rglob("*.md") if not {".venv", "build"} & set(path.relative_to(ROOT).parts)
)


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment whose `gpt2kit` is the package under test."""
    command = tmp_path / "gpt2kit"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gpt2kit "$@"\n')
    command.chmod(0o755)
    paths = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": paths}


def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0][:40])
def test_python_of_the_readme_runs(code: str, environment: dict[str, str]) -> None:
    run([sys.executable, "-c", code], environment)


@pytest.mark.parametrize("code", blocks("python", QUANTIZATION), ids=lambda code: code.splitlines()[0][:40])
def test_python_of_the_quantization_page_runs(code: str, environment: dict[str, str]) -> None:
    run([sys.executable, "-c", code], environment)


def test_commands_of_the_readme_run(environment: dict[str, str]) -> None:
    [commands] = [block for block in blocks("sh") if block.startswith("gpt2kit ")]
    done = run(["sh", "-ec", commands], environment)
    assert len(done.stdout.splitlines()) >= 4
    assert "Traceback" not in done.stderr


def test_first_command_of_the_readme_names_the_main_job(environment: dict[str, str]) -> None:
    command = blocks("sh")[0].split("&&")[-1].strip()
    assert command.startswith(".venv/bin/gpt2kit run ")
    done = run(["sh", "-ec", command.removeprefix(".venv/bin/")], environment)
    assert done.stdout.startswith("It is a truth universally acknowledged")
    assert "built-in model" in done.stderr


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(path: Path, environment: dict[str, str]) -> None:
    assert run([sys.executable, str(path)], environment).stdout


def test_examples_are_listed() -> None:
    listed = re.findall(r"\]\((\w+\.py)\)", (ROOT / "examples" / "README.md").read_text())
    assert sorted(listed) == [path.name for path in EXAMPLES]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_point_at_files(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path}: {target}"
