"""What simple compressors and an n-gram model need for a held-out text, in bits per byte.

    python baselines.py --data DATA

xz alone sees the held-out text only. "xz after the training text" may copy from all of it. The trigram model
is interpolated Kneser-Ney over the same tokens as the built-in model's, counted on the same training text.
"""

import argparse
import lzma
from pathlib import Path

import numpy as np
from evaluate import HELD_OUT, held_out
from numpy.typing import NDArray

DISCOUNT = 0.75
XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 26}]

Ids = NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder that train_tokenizer.py wrote ids to"
    )
    data: Path = parser.parse_args().data
    training_text = b"".join(path.read_bytes() for path in sorted((data / "train").glob("*.txt")))
    names = [path.stem for path in sorted((data / "train").glob("*.txt"))]
    training_ids = np.concatenate([np.load(data / "ids" / f"{name}.npy") for name in names]).astype(np.int64)
    model = KneserNeyTrigrams(training_ids)
    training_size = xz_size(training_text)
    for name in HELD_OUT:
        text = (data / "test" / f"{name}.txt").read_bytes()
        ids, num_bytes = held_out(data, name)
        print(f"{name}: xz alone {8 * xz_size(text) / num_bytes:.3f} bits per byte")
        more = xz_size(training_text + text) - training_size
        print(f"{name}: xz after the training text {8 * more / num_bytes:.3f} bits per byte")
        print(f"{name}: trigrams {model.total_bits(ids.numpy()) / num_bytes:.3f} bits per byte")


def xz_size(data: bytes) -> int:
    return len(lzma.compress(data, format=lzma.FORMAT_XZ, filters=XZ))


class KneserNeyTrigrams:
    """P(c | a b), interpolated with P(c | b) and P(c) that count in how many contexts c was seen."""

    def __init__(self, ids: Ids) -> None:
        V = self.V = int(ids.max()) + 1
        keys = (ids[:-2] * V + ids[1:-1]) * V + ids[2:]
        self.trigrams, self.trigram_counts = np.unique(keys, return_counts=True)
        # How many kinds of c came after a b.
        self.bigrams, self.bigram_kinds = np.unique(self.trigrams // V, return_counts=True)
        totals = np.zeros(len(self.bigrams), dtype=np.int64)
        np.add.at(totals, np.searchsorted(self.bigrams, self.trigrams // V), self.trigram_counts)
        self.bigram_totals = totals
        # Lower orders: in how many contexts was b c seen, and c.
        self.pairs, self.pair_counts = np.unique(self.trigrams % (V * V), return_counts=True)
        self.pair_totals = np.bincount(self.pairs // V, self.pair_counts, minlength=V)
        self.pair_kinds = np.bincount(self.pairs // V, minlength=V)
        kinds_before = np.bincount(self.pairs % V, minlength=V)
        seen = DISCOUNT * np.count_nonzero(kinds_before) / kinds_before.sum()
        self.unigrams = np.maximum(kinds_before - DISCOUNT, 0) / kinds_before.sum() + seen / V

    def total_bits(self, ids: Ids) -> float:
        """Bits to code ids[1:] given ids[0]; the first of them by bigrams."""
        V = self.V
        b, c = ids[:-1], ids[1:]
        pair_total = np.maximum(self.pair_totals[b], 1)
        fallback = np.where(self.pair_totals[b] > 0, DISCOUNT * self.pair_kinds[b] / pair_total, 1.0)
        count = look_up(self.pairs, self.pair_counts, b * V + c)
        p = np.maximum(count - DISCOUNT, 0) / pair_total + fallback * self.unigrams[c]
        context = ids[:-2] * V + ids[1:-1]
        total = look_up(self.bigrams, self.bigram_totals, context)
        kinds = look_up(self.bigrams, self.bigram_kinds, context)
        count = look_up(self.trigrams, self.trigram_counts, context * V + ids[2:])
        seen = np.maximum(count - DISCOUNT, 0) / np.maximum(total, 1)
        fallback = np.where(total > 0, DISCOUNT * kinds / np.maximum(total, 1), 1.0)
        p[1:] = seen + fallback * p[1:]
        return float(-np.log2(p).sum())


def look_up(keys: Ids, values: Ids, wanted: Ids) -> Ids:
    """Give the value of each wanted key, 0 for keys that are not there."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)


if __name__ == "__main__":
    main()
