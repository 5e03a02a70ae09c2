"""`gpt2kit bench` of one folder in several formats of weights, as a table and as a plot of rooflines.

usage: roofline.py FOLDER [--dtypes float32,bfloat16] [--batch 8] [--repeats 5] [--threads 2]
                   [--save RESULTS_FOLDER] [--plot FILE.svg]
       roofline.py --draw RESULTS.json --plot FILE.svg      the plot alone, from saved figures

Across, the operations that a kind of run does for each byte that it must read; upwards, operations per second. No run
can be above the slanted line, which is the memory's speed, nor above the level one of its arithmetic. Lines are the
medians of all runs, a point is the median of one.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from results import save_results

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 760, 460, 70, 60, 30, 30
X_RANGE, Y_RANGE = (0.1, 10_000.0), (1.0, 10_000.0)
COLORS = {"float32": "#1b6ca8", "bfloat16": "#c8553d", "float16": "#7a5195", "int8": "#3c8d40"}
TITLES = {"prefill": "prompt", "decode": "decode", "batch_decode": "batch"}


def bench(folder: Path, dtype: str, args: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "gpt2kit", "bench", str(folder), "--dtype", dtype, "--json", "--batch",
               str(args.batch), "--repeats", str(args.repeats), "--threads", str(args.threads)]  # fmt: skip
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


def points(runs: list[dict[str, Any]]) -> Iterator[tuple[str, str, float, float]]:
    """Give (precision, phase, operations a byte, operations a second)."""
    for run in runs:
        for name, phase in run["phases"].items():
            per_s = statistics.median(phase["tokens_per_s"]) * phase["operations_per_token"]
            yield run["precision"], name, phase["operations_per_token"] / phase["bytes_per_token"], per_s


def limits(runs: list[dict[str, Any]]) -> tuple[float, dict[str, float]]:
    """Return the medians of bytes and operations per second."""
    read = statistics.median(run["limits"]["read_bytes_per_s"]["median"] for run in runs)
    kinds = runs[0]["limits"]["operations_per_s"]
    return read, {
        kind: statistics.median(run["limits"]["operations_per_s"][kind]["median"] for run in runs)
        for kind in kinds
    }


def draw(runs: list[dict[str, Any]]) -> str:
    """Return the plot as SVG, with logarithmic axes."""

    def place(value: float, bounds: tuple[float, float], start: float, end: float) -> float:
        low, high = map(math.log10, bounds)
        return start + (math.log10(value) - low) / (high - low) * (end - start)

    def x(value: float) -> float:
        return place(value, X_RANGE, LEFT, WIDTH - RIGHT)

    def y(operations: float) -> float:
        return place(operations / 1e9, Y_RANGE, HEIGHT - BOTTOM, TOP)

    def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
        return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'

    def text(at_x: float, at_y: float, words: str, style: str = "") -> str:
        return f'<text x="{at_x:.1f}" y="{at_y:.1f}" {style}>{words}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    grid = 'stroke="#ddd"'
    for power in range(-1, 5):
        at = x(10.0**power)
        parts.append(line(at, TOP, at, HEIGHT - BOTTOM, grid))
        parts.append(text(at, HEIGHT - BOTTOM + 18, f"{10.0**power:g}", 'text-anchor="middle"'))
    for power in range(5):
        at = y(10.0 ** (power + 9))
        parts.append(line(LEFT, at, WIDTH - RIGHT, at, grid))
        parts.append(text(LEFT - 8, at + 4, f"{10**power:,}", 'text-anchor="end"'))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(text(middle, HEIGHT - 18, "operations for each byte read", 'text-anchor="middle"'))
    parts.append(text(18, TOP - 12, "billion operations a second"))

    read, arithmetic = limits(runs)
    corner = max(arithmetic.values()) / read
    lowest = max(X_RANGE[0], Y_RANGE[0] * 1e9 / read)
    black = 'stroke="#444" stroke-width="1.5"'
    parts.append(line(x(lowest), y(lowest * read), x(corner), y(corner * read), black))
    parts.append(text(x(lowest) + 14, y(lowest * read) - 24, f"memory {read / 1e9:.0f} GB/s"))
    for kind, rate in arithmetic.items():
        parts.append(line(x(rate / read), y(rate), WIDTH - RIGHT, y(rate), black))
        words = f"{kind} {rate / 1e9:,.0f}"
        parts.append(text(WIDTH - RIGHT - 4, y(rate) - 5, words, 'text-anchor="end"'))
    precisions = [run["precision"] for run in runs]
    for precision, name, per_byte, per_s in points(runs):
        color = COLORS.get(precision, "#444")
        parts.append(f'<circle cx="{x(per_byte):.1f}" cy="{y(per_s):.1f}" r="5" fill="{color}"/>')
        words = f"{TITLES[name]}, {precision}"
        side = 14 if precision == precisions[0] else -8  # below, and above: points may lie close together
        parts.append(text(x(per_byte) + 9, y(per_s) + side, words, f'fill="{color}"'))
    return "\n".join([*parts, "</svg>"]) + "\n"


def table(runs: list[dict[str, Any]], args: argparse.Namespace) -> list[str]:
    first = runs[0]
    read, arithmetic = limits(runs)
    peaks = ", ".join(f"{kind} {rate / 1e9:,.0f} Gop/s" for kind, rate in arithmetic.items())
    lines = [
        f"{first['threads']} threads, {first['isa']}, medians of {first['repeats']} rounds; a prompt of "
        f"{first['prompt']}, {first['decode']} new tokens after {first['context']}, batches of {args.batch}",
        "",
        f"The machine meanwhile: {read / 1e9:.1f} GB/s, {peaks}",
        "",
        "| weights | run | tokens/s | of reading | of float32 arithmetic |",
        "|---|---|---|---|---|",
    ]
    for run in runs:
        for name, phase in run["phases"].items():
            speed, reached = statistics.median(phase["tokens_per_s"]), phase["reached"]
            lines.append(
                f"| {run['precision']} | {TITLES[name]} | {speed:,.1f} | {reached['read']:.0%} | "
                f"{reached['float32']:.0%} |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--draw", type=Path)
    args = parser.parse_args()
    if (args.folder is None) == (args.draw is None):
        parser.error("give FOLDER or --draw RESULTS.json")
    if args.draw:
        runs = json.loads(args.draw.read_text())["runs"]
    else:
        runs = [bench(args.folder, dtype, args) for dtype in args.dtypes.split(",")]
        lines = table(runs, args)
        print("\n".join(lines))
        if args.save:
            save_results(args.save, "roofline", lines, {"runs": runs})
    if args.plot:
        args.plot.write_text(draw(runs))


if __name__ == "__main__":
    main()
