"""A fresh process from nothing to 20 greedy tokens: gpt2kit's command line against Transformers' pipeline.

usage: cold_start.py FOLDER [--rounds 5] [--save RESULTS_FOLDER]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from results import save_results

PROMPT = "Hello, I'm a language model"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    theirs = (
        "from transformers import pipeline\n"
        f"pipe = pipeline('text-generation', model={str(args.folder)!r})\n"
        f"print(pipe({PROMPT!r}, max_new_tokens=20, min_new_tokens=20, do_sample=False)[0]['generated_text'])\n"
    )
    contestants = {
        "gpt2kit": [
            sys.executable,
            "-m",
            "gpt2kit",
            "run",
            PROMPT,
            "--model",
            str(args.folder),
            "--greedy",
            "-n",
            "20",
        ],
        "transformers": [sys.executable, "-c", theirs],
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    texts: dict[str, str] = {}
    for _ in range(args.rounds + 1):  # the first warms the page cache and is not counted
        for name, command in contestants.items():
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds[name].append(time.perf_counter() - start)
            texts[name] = done.stdout.strip()
    if not texts["transformers"].endswith(texts["gpt2kit"]):
        sys.exit(f"the texts differ, nothing to time: {texts}")
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    lines = [
        f"cold process to 20 greedy tokens, medians of {args.rounds} rounds in turn, page cache warm",
        "",
        "| | seconds |",
        "|---|---|",
        *(f"| {name} | {median:.3f} |" for name, median in medians.items()),
        "",
        f"ratio {medians['transformers'] / medians['gpt2kit']:.1f}",
    ]
    print("\n".join(lines))
    if args.save:
        save_results(args.save, "cold_start", lines, {"seconds": seconds, "medians": medians})


if __name__ == "__main__":
    main()
