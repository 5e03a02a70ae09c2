"""Bits per byte of a model on a text, which compares models whatever their tokenizers are.

python evaluate.py --data DATA --model FOLDER
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

HELD_OUT = ("persuasion", "john")


def main() -> None:
    from gpt2kit.model import GPT2LMHeadModel

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder that train_tokenizer.py wrote ids to"
    )
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    arguments = parser.parse_args()
    model = GPT2LMHeadModel.from_pretrained(arguments.model, dtype="float32")
    for name in HELD_OUT:
        ids, num_bytes = held_out(arguments.data, name)
        bits = total_bits(model.transformer, ids, model.config.n_positions)
        print(f"{name:12} {bits / num_bytes:.4f} bits per byte, {len(ids)} tokens, {num_bytes} bytes")


def held_out(data: Path, name: str) -> tuple[Tensor, int]:
    """Ids of a held-out text, <|endoftext|> first and after every document, and its size in bytes."""
    ids = np.load(data / "ids" / f"{name}.npy")
    text = (data / "test" / f"{name}.txt").read_bytes()
    return torch.from_numpy(np.concatenate((ids[-1:], ids)).astype(np.int64)), len(text)


@torch.no_grad()
def total_bits(trunk: nn.Module, ids: Tensor, n_positions: int) -> float:
    """Bits to code ids[1:] given ids[0], each token after at least n_positions / 2 others where there are.

    The ends of documents are coded too, so the figure is what a compressor would need for the whole text.
    """
    stride = n_positions // 2
    nats = 0.0
    for start in range(0, max(1, len(ids) - 1 - stride), stride):
        window = ids[start : start + n_positions + 1]
        new = len(window) - 1 if start == 0 else max(0, len(window) - 1 - stride)
        hidden = trunk(window[None, :-1], use_cache=False).last_hidden_state[0, -new:]
        logits = (hidden @ trunk.wte.weight.T).float()
        nats += F.cross_entropy(logits, window[-new:], reduction="sum").item()
    return nats / math.log(2)


if __name__ == "__main__":
    main()
