"""Speculative decoding in the native loop against plain decoding: the same tokens, in less time or hardly more.

usage: speculation.py [--threads 2] [--rounds 7] [--new 256] [--quant int8] [--save RESULTS_FOLDER]

The built-in model continues real text: greedy, it soon repeats itself; sampled, hardly anything occurs twice. GPT-2 124M
with random weights shows the two ends of a draft model: its blocks after the second add nothing, so a model of the
first two is always right, and one of other weights never is. A prompt has 64 tokens. Ids are compared first.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from results import save_results

from gpt2kit import AutoTokenizer, GPT2Config, builtin
from gpt2kit.checkpoint import save_checkpoint
from gpt2kit.checkpoint.names import trunk_shapes
from gpt2kit.engine import load_engine
from gpt2kit.generation import Generated, generate

PROMPT = 64
DRAFT_LAYERS = 2
TEXT = Path(__file__).parent.parent / "tests/data/persuasion_excerpt.txt"
LOOKUP = {"prompt_lookup_num_tokens": 10}
SAMPLED = {"do_sample": True, "top_k": 0, "seed": 1}


def write_model(folder: Path, seed: int, n_layer: int) -> Path:
    """Write random weights of which only the first blocks do anything."""
    config = GPT2Config(n_layer=n_layer)
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in trunk_shapes(config).items():
        if len(shape) == 1:
            weights[name] = np.full(shape, "ln_" in name and name.endswith("weight"), np.float32)
        elif name.startswith("h.") and int(name.split(".")[1]) >= DRAFT_LAYERS and "c_proj" in name:
            weights[name] = np.zeros(shape, np.float32)
        else:
            weights[name] = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
    save_checkpoint(folder, weights, config)
    return folder


def cases(parent: Path, args: argparse.Namespace) -> dict[str, tuple[Any, list[int], dict[str, Any], Any]]:
    """Return, by name: the engine, the prompt, the options, and what guesses."""
    options = {"threads": args.threads, "quant": args.quant}
    small = load_engine(builtin.path(), **options)
    words = AutoTokenizer.from_pretrained(builtin.path()).encode(TEXT.read_text())[:PROMPT]
    large = load_engine(write_model(parent / "large", 0, n_layer=12), **options)
    wrong = load_engine(write_model(parent / "wrong", 1, n_layer=DRAFT_LAYERS), **options)
    right = large.first_layers(DRAFT_LAYERS)
    numbers = np.random.default_rng(2).integers(0, 50256, PROMPT).tolist()
    sure = {"assistant_confidence_threshold": 0.0}
    return {
        "built-in, greedy, from the text": (small, words, {}, LOOKUP),
        "built-in, sampled, from the text": (small, words, SAMPLED, LOOKUP),
        "124M, greedy, from the text": (large, numbers, {}, LOOKUP),
        "124M, sampled, from the text": (large, numbers, SAMPLED, LOOKUP),
        "124M, sampled, a draft always right": (large, numbers, SAMPLED, {"assistant": right, **sure}),
        "124M, sampled, a draft never right": (large, numbers, SAMPLED, {"assistant": wrong, **sure}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--new", type=int, default=256)
    parser.add_argument("--quant")
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    lines = [
        f"{args.threads} threads, {PROMPT} + {args.new} tokens, weights in {args.quant or 'float32'} (built-in: "
        f"{args.quant or 'float16'}), medians of {args.rounds} rounds in turn",
        "",
        "| case | plain s | guessing s | faster by | least to most | guessed | right |",
        "|---|---|---|---|---|---|---|",
    ]
    seconds = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, (engine, prompt, options, guessing) in cases(Path(temporary), args).items():
            runs: list[list[float]] = [[], []]
            rows: list[Generated] = []
            for round_number in range(args.rounds + 1):
                rows = []
                for run, more in zip(runs, ({}, guessing), strict=True):
                    start = time.perf_counter()
                    rows += generate(
                        engine, [prompt], max_new_tokens=args.new, eos_token_id=[], **options, **more
                    )
                    if round_number > 0:  # the first one warms up
                        run.append(time.perf_counter() - start)
                if rows[0].ids != rows[1].ids:
                    sys.exit(f"{name}: guesses change the tokens: nothing to time")
            ratios = [plain / guessed for plain, guessed in zip(*runs, strict=True)]
            lines.append(
                f"| {name} | {statistics.median(runs[0]):.3f} | {statistics.median(runs[1]):.3f} | "
                f"{statistics.median(ratios):.2f}x | {min(ratios):.2f}x to {max(ratios):.2f}x | "
                f"{rows[1].num_guessed} | {rows[1].num_right} |"
            )
            print(lines[-1], file=sys.stderr)
            seconds[name] = {"plain": runs[0], "guessing": runs[1]}
    print("\n".join(lines))
    if args.save:
        save_results(args.save, "speculation", lines, {"seconds": seconds})


if __name__ == "__main__":
    main()
