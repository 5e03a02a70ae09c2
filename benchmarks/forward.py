"""The torch forward pass against Transformers', both models in one process, on the same weights, in turn.

usage: forward.py [--threads 2] [--rounds 7] [--save RESULTS_FOLDER]

GPT-2 124M in float32 with random weights. prompt: a batch of 1 x 512 with its cache made, all logits. step: one
token after 128 cached ones. In inference mode, with each side's default attention.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from results import save_results

from gpt2kit import GPT2Config, GPT2LMHeadModel

PROMPT, CACHED, STEPS = 512, 128, 16


def models() -> dict[str, Any]:
    """Both with the very same weights in memory."""
    with torch.device("meta"):
        theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    ours = GPT2LMHeadModel(GPT2Config()).eval()
    theirs.load_state_dict(ours.state_dict(), assign=True)
    theirs.tie_weights()
    return {"gpt2kit": ours, "transformers": theirs}


def check(contestants: dict[str, Any], ids: torch.Tensor) -> None:
    """Stop when the two do not compute the same: then there is nothing to time."""
    with torch.inference_mode():
        ours, theirs = (model(ids).logits for model in contestants.values())
    error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    if error > 2e-5:
        sys.exit(f"logits differ by {error:.1e} of the largest: nothing to time")


def prompt(model: Any, ids: torch.Tensor) -> float:
    start = time.perf_counter()
    with torch.inference_mode():
        model(ids, use_cache=True)
    return time.perf_counter() - start


def step(model: Any, ids: torch.Tensor) -> float:
    """Seconds of one step, the mean of a few."""
    with torch.inference_mode():
        cache = model(ids[:, :CACHED], use_cache=True).past_key_values
        start = time.perf_counter()
        for i in range(CACHED, CACHED + STEPS):
            model(ids[:, i : i + 1], past_key_values=cache, use_cache=True)
        return (time.perf_counter() - start) / STEPS


RUNS: dict[str, Callable[[Any, torch.Tensor], float]] = {"prompt": prompt, "step": step}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    contestants = models()
    check(contestants, torch.randint(0, 50257, (1, PROMPT)))

    seconds: dict[str, dict[str, list[float]]] = {name: {run: [] for run in RUNS} for name in contestants}
    for _ in range(args.rounds):
        ids = torch.randint(0, 50257, (1, PROMPT))
        for run, time_of in RUNS.items():
            for name, model in contestants.items():
                seconds[name][run].append(time_of(model, ids))
    medians = {name: {run: statistics.median(s) for run, s in runs.items()} for name, runs in seconds.items()}
    # Of each round by itself: what slows the machine slows both sides of a round.
    ratios = {
        run: [b / a for a, b in zip(seconds["gpt2kit"][run], seconds["transformers"][run], strict=True)]
        for run in RUNS
    }
    lines = [
        f"float32, {args.threads} threads, medians of {args.rounds} rounds in turn; torch {torch.__version__}, "
        f"transformers {transformers.__version__}, Python {platform.python_version()}",
        "",
        "| forward pass | gpt2kit ms | transformers ms | gpt2kit is faster by | least to most |",
        "|---|---|---|---|---|",
    ]
    names = {"prompt": f"1 x {PROMPT}", "step": f"1 x 1 after {CACHED} cached"}
    for run, ratio in ratios.items():
        ours, theirs = (medians[name][run] * 1000 for name in contestants)
        lines.append(
            f"| {names[run]} | {ours:.1f} | {theirs:.1f} | {statistics.median(ratio):.2f}x | "
            f"{min(ratio):.2f}x to {max(ratio):.2f}x |"
        )
    print("\n".join(lines))
    if args.save:
        save_results(args.save, "forward", lines, {"seconds": seconds, "medians": medians})


if __name__ == "__main__":
    main()
