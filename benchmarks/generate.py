"""model.generate() in PyTorch against Transformers', both models in one process, on the same file, in turn.

usage: generate.py [--threads 2] [--rounds 5] [--new 128] [--save RESULTS_FOLDER]

GPT-2 124M with random weights in a file in float32 and in one in bfloat16, loaded by both sides'
from_pretrained(folder) and run by the same call, greedy: a prompt of 32 tokens, and a batch of 8 such prompts.

Ids are compared first. In float32 all must be equal. In bfloat16 Transformers rounds every activation, and gpt2kit
computes in float32 over the same weights; so there each id that Transformers chooses must be one whose logit, given
the ids before it, is at most TOLERANCE of the largest logit below the best in float32.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from results import save_results

from gpt2kit import GPT2Config, GPT2LMHeadModel

PROMPT = 32
BATCHES = (1, 8)
# bfloat16 keeps 8 bits, 0.4 %; twelve layers of such roundings add up to a few times that.
TOLERANCE = 0.03


def write_folders(parent: Path) -> dict[str, Path]:
    """Write one set of random weights in both dtypes."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config())
    folders = {}
    for dtype in ("float32", "bfloat16"):
        folders[dtype] = parent / dtype
        model.to(getattr(torch, dtype)).save_pretrained(folders[dtype])
    return folders


def load(folder: Path) -> dict[str, Any]:
    """Load the folder on both sides, with what each makes of it by default."""
    return {
        "gpt2kit": GPT2LMHeadModel.from_pretrained(folder).eval(),
        "transformers": transformers.GPT2LMHeadModel.from_pretrained(folder).eval(),
    }


def prompts(batch: int) -> torch.Tensor:
    return torch.randint(0, 50256, (batch, PROMPT))


def generate(model: Any, ids: torch.Tensor, new: int) -> torch.Tensor:
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 50256}
    found: torch.Tensor = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return found


def check(models: dict[str, Any], dtype: str, new: int) -> None:
    """Stop when the two do not choose the same: then there is nothing to time."""
    ids = prompts(max(BATCHES))
    ours, theirs = (generate(model, ids, new) for model in models.values())
    if dtype == "float32":
        if not torch.equal(ours, theirs):
            sys.exit("float32: the two choose different ids: nothing to time")
        return
    exact = models["gpt2kit"].float()
    with torch.inference_mode():
        logits = exact(theirs[:, :-1]).logits[:, PROMPT - 1 :]
        logits[..., 50256] = -torch.inf  # min_new_tokens forbids the end
    chosen = logits.gather(2, theirs[:, PROMPT:, None])[..., 0]
    best = logits.amax(2)
    gap = ((best - chosen) / best.abs()).max().item()
    if gap > TOLERANCE:
        sys.exit(f"{dtype}: Transformers chooses ids {gap:.1%} below the best: nothing to time")
    same = (ours == theirs)[:, PROMPT:].float().cumprod(1).sum(1).mean().item()
    print(
        f"{dtype}: ids agree for {same:.0f} of {new} tokens; at most {gap:.1%} below the best",
        file=sys.stderr,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lines = [
        f"{args.threads} threads, {PROMPT} + {args.new} tokens, medians of {args.rounds} rounds in turn; torch "
        f"{torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}",
        "",
        "| file | prompts | gpt2kit s | transformers s | gpt2kit is faster by | least to most |",
        "|---|---|---|---|---|---|",
    ]
    seconds: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for dtype, folder in write_folders(Path(temporary)).items():
            check(load(folder), dtype, args.new)
            models = load(folder)
            for batch in BATCHES:
                runs: dict[str, list[float]] = {name: [] for name in models}
                for round_number in range(args.rounds + 1):
                    ids = prompts(batch)
                    for name, model in models.items():
                        start = time.perf_counter()
                        generate(model, ids, args.new)
                        if round_number > 0:  # the first one warms up
                            runs[name].append(time.perf_counter() - start)
                seconds[f"{dtype}, {batch}"] = runs
                # Of each round by itself: what slows the machine slows both sides of a round.
                ratios = [b / a for a, b in zip(runs["gpt2kit"], runs["transformers"], strict=True)]
                ours, theirs = (statistics.median(times) for times in runs.values())
                lines.append(
                    f"| {dtype} | {batch} | {ours:.3f} | {theirs:.3f} | {statistics.median(ratios):.2f}x | "
                    f"{min(ratios):.2f}x to {max(ratios):.2f}x |"
                )
    print("\n".join(lines))
    if args.save:
        save_results(args.save, "generate", lines, {"seconds": seconds})


if __name__ == "__main__":
    main()
