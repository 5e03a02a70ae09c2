"""A fresh process from nothing to 20 greedy tokens: gpt2kit's command line against its peers.

usage: cold_start.py FOLDER [--gguf FILE [--python PYTHON]] [--rounds 5] [--save RESULTS_FOLDER]

Transformers runs the same folder, unless that is packed; with --gguf llama-cpp-python runs that file, in the Python that
has it. Python's compiled files are kept, as they are of what is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from results import save_results

PROMPT = "Hello, I'm a language model"


def contestants_of(args: argparse.Namespace) -> dict[str, list[str]]:
    folder = str(args.folder)
    run = ["run", PROMPT, "--model", folder, "--greedy", "-n", "20"]
    contestants = {"gpt2kit": [sys.executable, "-m", "gpt2kit", *run]}
    quantization = json.loads((args.folder / "config.json").read_text()).get("quantization_config", {})
    if quantization.get("quant_method") != "gpt2kit":
        theirs = (
            "from transformers import pipeline\n"
            f"pipe = pipeline('text-generation', model={folder!r})\n"
            f"print(pipe({PROMPT!r}, max_new_tokens=20, min_new_tokens=20, do_sample=False)[0]['generated_text'])\n"
        )
        contestants["transformers"] = [sys.executable, "-c", theirs]
    if args.gguf:
        theirs = (
            "from llama_cpp import Llama\n"
            f"llama = Llama({str(args.gguf)!r}, n_ctx=1024, verbose=False)\n"
            f"print(llama({PROMPT!r}, max_tokens=20, temperature=0)['choices'][0]['text'])\n"
        )
        contestants["llama-cpp-python"] = [args.python, "-c", theirs]
    return contestants


def timed(command: list[str]) -> tuple[float, float, int, str]:
    """Return seconds, seconds of processor time, the peak of memory in bytes and what was printed."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=kept)
    assert process.stdout is not None
    text = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command} failed with {process.returncode}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, text.strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    contestants = contestants_of(args)
    runs: dict[str, list[tuple[float, float, int, str]]] = {name: [] for name in contestants}
    for _ in range(args.rounds + 1):  # the first warms the page cache and is not counted
        for name, command in contestants.items():
            runs[name].append(timed(command))
    texts = {name: counted[-1][3] for name, counted in runs.items()}
    if not texts.get("transformers", texts["gpt2kit"]).endswith(texts["gpt2kit"]):
        sys.exit(f"the texts differ, nothing to time: {texts}")
    medians = {
        name: [statistics.median(column) for column in list(zip(*counted[1:], strict=True))[:3]]
        for name, counted in runs.items()
    }
    lines = [
        f"cold process to 20 greedy tokens, medians of {args.rounds} rounds in turn, page cache warm",
        "",
        "| | seconds | of processors | peak MB | ratio |",
        "|---|---|---|---|---|",
    ]
    for name, (seconds, cpu, rss) in medians.items():
        ratio = seconds / medians["gpt2kit"][0]
        lines.append(f"| {name} | {seconds:.3f} | {cpu:.3f} | {rss / 1e6:.0f} | {ratio:.2f} |")
    print("\n".join(lines))
    if args.save:
        raw = {name: [run[:3] for run in counted] for name, counted in runs.items()}
        save_results(args.save, "cold_start", lines, {"runs": raw, "medians": medians})


if __name__ == "__main__":
    main()
