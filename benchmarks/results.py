"""Where figures go: results/<what>_<cpu>_<YYYY-MM>.json and .md, with the machine and the command."""

from __future__ import annotations

import datetime
import json
import os
import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ["gpt2kit", "numpy", "torch", "transformers", "llama_cpp_python", "tokenizers", "tiktoken"]


def cpu_name() -> str:
    """Return the processor's name and family, as the operating system gives them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "cpu"
    fields = dict(re.findall(r"^(model name|cpu family|model)\s*:\s*(.*)$", text, re.MULTILINE))
    return f"{fields.get('model name', 'cpu')} family {fields.get('cpu family', '?')}"


def save_results(folder: Path, what: str, lines: list[str], raw: dict[str, Any]) -> None:
    """Write the table and the raw figures, replacing this month's."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    today = datetime.date.today()
    stem = f"{what}_{re.sub(r'[^a-z0-9]+', '-', cpu_name().lower()).strip('-')}_{today:%Y-%m}"
    scripts = Path(sys.argv[0])
    command = shlex.join(["python", f"benchmarks/{scripts.name}", *sys.argv[1:]])
    folder.mkdir(parents=True, exist_ok=True)
    machine = {
        "cpu": cpu_name(),
        "processors": os.cpu_count(),
        "date": today.isoformat(),
        "versions": versions,
    }
    (folder / f"{stem}.json").write_text(
        json.dumps({"command": command, "machine": machine, **raw}, indent=1) + "\n"
    )
    head = [f"# {what}: {cpu_name()}, {os.cpu_count()} processors, {today}", "", f"    {command}", ""]
    foot = ["", ", ".join(f"{name} {number}" for name, number in versions.items())]
    (folder / f"{stem}.md").write_text("\n".join(head + lines + foot) + "\n")
