"""Train the built-in model's byte-level BPE and encode the corpus with it.

Reads <data>/train/*.txt and <data>/test/*.txt (see prepare_corpus.py), writes

    <data>/tokenizer/vocab.json, merges.txt
    <data>/ids/<source>.npy      uint16 ids, every document followed by <|endoftext|>

Needs the PyPI packages tokenizers and numpy.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
# How often each training text counts when merges are chosen; novels above their share, as in training.
REPEATS = {"austen": 3, "twain": 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that prepare_corpus.py wrote")
    parser.add_argument("--vocab-size", type=int, default=6144, help="entries, <|endoftext|> among them")
    arguments = parser.parse_args()
    data = arguments.data

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=arguments.vocab_size - 1,  # <|endoftext|> comes last, as in GPT-2's own vocabulary
        min_frequency=10,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_documents(data), trainer)
    tokenizer.add_special_tokens([END_OF_TEXT])
    end_of_text_id = tokenizer.token_to_id(END_OF_TEXT)
    save(tokenizer, data / "tokenizer")

    (data / "ids").mkdir(exist_ok=True)
    for path in sorted(data.glob("t*/*.txt")):
        if path.parent.name not in ("train", "test"):
            continue
        documents = path.read_text(encoding="utf-8").split(END_OF_TEXT)
        ids = [i for encoding in tokenizer.encode_batch(documents) for i in (*encoding.ids, end_of_text_id)]
        np.save(data / "ids" / f"{path.stem}.npy", np.array(ids, dtype=np.uint16))
        print(f"{path.stem:12} {len(ids):9} ids {path.stat().st_size / len(ids):.3f} bytes/id")


def training_documents(data: Path) -> Iterator[str]:
    for path in sorted((data / "train").glob("*.txt")):
        documents = path.read_text(encoding="utf-8").split(END_OF_TEXT)
        for _ in range(REPEATS.get(path.stem, 1)):
            yield from documents


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write vocab.json and merges.txt as GPT-2's own files are: merges in order, ids from 0."""
    folder.mkdir(exist_ok=True)
    state = json.loads(tokenizer.to_str())["model"]
    vocabulary = dict(sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1]))
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n", encoding="utf-8")
    merges = [m if isinstance(m, str) else " ".join(m) for m in state["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
