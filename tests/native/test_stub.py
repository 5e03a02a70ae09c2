"""The hand-written types of the extension name what it has, and nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

import gpt2kit
from gpt2kit import _native


def public(names: object) -> set[str]:
    return {name for name in names if not name.startswith("_")}  # type: ignore[attr-defined]


def test_stub_and_module_agree() -> None:
    tree = ast.parse((Path(gpt2kit.__file__).parent / "_native.pyi").read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert public(vars(_native)) == public(classes) | functions
    for name, node in classes.items():
        members = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
        assert public(vars(getattr(_native, name))) == public(members), name
