"""Write a trained model as the folder that ships with the package.

    python export.py --data DATA --model OUT/model --to src/gpt2kit/builtin

Weights are rounded to float16. The model card, README.md, is written by hand from what evaluate.py and
baselines.py print.
"""

import argparse
import json
import shutil
from pathlib import Path

from gpt2kit.checkpoint import open_checkpoint, save_checkpoint
from gpt2kit.config import GenerationConfig

END_OF_TEXT = "<|endoftext|>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that train_tokenizer.py wrote to")
    parser.add_argument("--model", type=Path, required=True, help="folder that train.py wrote")
    parser.add_argument("--to", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    checkpoint = open_checkpoint(arguments.model)
    weights = {name: checkpoint.float32(name) for name in checkpoint.names()}
    config = checkpoint.config
    config.architectures = ["GPT2LMHeadModel"]
    save_checkpoint(arguments.to, weights, config, dtypes="F16")
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(arguments.data / "tokenizer" / name, arguments.to / name)
    tokenizer_config = {
        "add_prefix_space": False,
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "model_max_length": config.n_positions,
        "tokenizer_class": "GPT2Tokenizer",
    }
    (arguments.to / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2) + "\n")
    GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        do_sample=True,
        temperature=0.8,
        top_k=40,
        top_p=0.95,
        repetition_penalty=1.1,
    ).save_pretrained(arguments.to)


if __name__ == "__main__":
    main()
