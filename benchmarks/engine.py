"""Prompts, decoding, batches, load time and memory of CPU engines, side by side on one model folder.

usage: engine.py FOLDER [--contestants gpt2kit:float32,transformers:float32,llama.cpp:f32] [--rounds 3]
                 [--threads 2] [--prompt 128] [--batch 32] [--python openvino=PYTHON] [--work FOLDER]
                 [--save RESULTS_FOLDER] [--name NAME]

A contestant is an engine and a format; engine_peers.py has all. prefill: a 512-token prompt, logits of the last
position. decode: 128 greedy tokens after a prompt of --prompt tokens. batch: the same for that many prompts at once, all
tokens counted, where the engine takes several. Prompts are new at every run, so that no cache can answer.

Copies in the contestants' formats are made in --work, or a temporary folder. --python names the interpreter of an
engine that has an environment of its own. Those that compute in float32 must give the same ids; the first contestant is
what the others are compared with.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from engine_peers import ENGINES, EXACT

PREFILL, PROMPT, DECODE, RUNS = 512, 128, 128, 5
SPEEDS = {"prefill": "prefill_tokens_per_s", "decode": "decode_tokens_per_s", "batch": "batch_tokens_per_s"}


def measure(name: str, copy: Path, threads: int, prompt: int, batch: int) -> dict[str, Any]:
    """Time one contestant in this process; `ids` are greedy ids from a fixed prompt, to compare with the others."""
    import resource

    engine, format = name.split(":")
    start = time.perf_counter()
    peer = ENGINES[engine].load(copy, format, threads)
    load_s = time.perf_counter() - start
    rng = np.random.default_rng()

    def timed(run: Callable[..., Any], shape: int | tuple[int, int], *arguments: int) -> float:
        ids = rng.integers(0, 50000, shape).tolist()
        begin = time.perf_counter()
        run(ids, *arguments)
        return time.perf_counter() - begin

    def decoding(run: Callable[..., Any], shape: int | tuple[int, int], runs: int) -> float:
        """Return seconds of a step, without the prompt."""
        return statistics.median(
            (timed(run, shape, DECODE + 1) - timed(run, shape, 1)) / DECODE for _ in range(runs)
        )

    ids = peer.generate(np.random.default_rng(0).integers(0, 50000, prompt).tolist(), 16)
    timed(peer.prefill, PREFILL)
    timed(peer.generate, prompt, DECODE + 1)
    found = {
        "load_s": round(load_s, 3),
        SPEEDS["prefill"]: round(
            PREFILL / statistics.median(timed(peer.prefill, PREFILL) for _ in range(RUNS)), 1
        ),
        SPEEDS["decode"]: round(1 / decoding(peer.generate, prompt, RUNS), 1),
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "ids": [int(i) for i in ids],
    }
    if batch > 1 and peer.generate_many:
        timed(peer.generate_many, (batch, prompt), 2)
        found[SPEEDS["batch"]] = round(batch / decoding(peer.generate_many, (batch, prompt), 2), 1)
    return found


def copy_for(name: str, folder: Path, work: Path) -> Path:
    """Return what the contestant reads."""
    engine, format = name.split(":")
    return folder if ENGINES[engine].prepare is None else work / f"{engine}-{format}"


def in_its_process(action: str, name: str, args: argparse.Namespace, work: Path) -> str:
    """Run `action` for a contestant and return what it prints last."""
    pythons = dict(item.split("=", 1) for item in args.python)
    command = [pythons.get(name.split(":")[0], sys.executable), __file__, str(args.folder), "--work", str(work),
               "--threads", str(args.threads), "--prompt", str(args.prompt), "--batch", str(args.batch),
               action, name]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: {action} failed\n{done.stderr[-3000:]}")
    return [line for line in done.stdout.splitlines() if line.startswith("{")][-1] if done.stdout else ""


def check_ids(runs: dict[str, list[dict[str, Any]]]) -> None:
    exact = [name for name in runs if name in EXACT]
    for name in exact[1:]:
        if runs[name][0]["ids"] != runs[exact[0]][0]["ids"]:
            sys.exit(
                f"{name} generates {runs[name][0]['ids']}, {exact[0]} {runs[exact[0]][0]['ids']}: nothing to time"
            )


def table(medians: dict[str, dict[str, float]], args: argparse.Namespace) -> list[str]:
    first_name, first = next(iter(medians.items()))
    batch = [f"{args.batch} rows tok/s"] if args.batch > 1 else []
    titles = [
        "engine",
        "prefill tok/s",
        "decode tok/s",
        *batch,
        "load s",
        "peak RSS MB",
        f"{first_name} is faster by",
    ]
    lines = [
        f"prompt of {args.prompt}, {args.threads} threads, medians of {args.rounds} rounds in turn; "
        f"Python {platform.python_version()}",
        "",
        f"| {' | '.join(titles)} |",
        "|" + "---|" * len(titles),
    ]
    for name, m in medians.items():
        ratios = [
            f"{what} {first[key] / m[key]:.2f}x" for what, key in SPEEDS.items() if key in first and key in m
        ]
        cells = [name, f"{m[SPEEDS['prefill']]:.0f}", f"{m[SPEEDS['decode']]:.1f}"]
        if args.batch > 1:
            cells.append(f"{m[SPEEDS['batch']]:.0f}" if SPEEDS["batch"] in m else "")
        cells += [f"{m['load_s']:.2f}", f"{m['rss_mb']:.0f}", "" if name == first_name else ", ".join(ratios)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--contestants", default="gpt2kit:float32,transformers:float32,llama.cpp:f32")
    parser.add_argument("--prompt", type=int, default=PROMPT)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python", action="append", default=[], metavar="ENGINE=PYTHON")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--name", default="engine", help="of the saved results")
    names = [f"{engine}:{format}" for engine, facts in ENGINES.items() for format in facts.formats]
    parser.add_argument("--prepare", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=names, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    args.names = args.contestants.split(",")
    if not set(args.names) <= set(names):
        parser.error(f"contestants are {', '.join(names)}")
    return args


def compare(args: argparse.Namespace, work: Path) -> None:
    for name in args.names:
        if not copy_for(name, args.folder, work).exists():
            in_its_process("--prepare", name, args, work)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in args.names}
    for _ in range(args.rounds):
        for name in args.names:
            runs[name].append(json.loads(in_its_process("--measure", name, args, work)))
    check_ids(runs)
    medians = {
        name: {key: statistics.median(run[key] for run in found) for key in found[0] if key != "ids"}
        for name, found in runs.items()
    }
    lines = table(medians, args)
    print("\n".join(lines))
    if args.save:
        from results import save_results

        save_results(args.save, args.name, lines, {"runs": runs, "medians": medians})


def main() -> None:
    args = parse()
    if args.measure:
        copy = copy_for(args.measure, args.folder, args.work)
        print(json.dumps(measure(args.measure, copy, args.threads, args.prompt, args.batch)))
    elif args.prepare:
        engine, format = args.prepare.split(":")
        prepare = ENGINES[engine].prepare
        assert prepare is not None
        prepare(args.folder, format, copy_for(args.prepare, args.folder, args.work))
    elif args.work:
        args.work.mkdir(parents=True, exist_ok=True)
        compare(args, args.work)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            compare(args, Path(temporary))


if __name__ == "__main__":
    main()
