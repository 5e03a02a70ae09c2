"""The model that ships with the package works, and is as good as its card says."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from gpt2kit import builtin
from gpt2kit.engine import load_engine
from gpt2kit.generation.protocol import Engine
from gpt2kit.tokenizer import AutoTokenizer

EXCERPT = Path(__file__).parents[1] / "data" / "persuasion_excerpt.txt"  # of the book that was held out
BITS_PER_BYTE = 1.49051
# Engines sum in different orders; a change of weights, vocabulary or arithmetic moves far more.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(builtin.path())


@pytest.fixture(scope="module", params=["native", "torch"])
def engine(request) -> Engine:
    if request.param == "torch":
        pytest.importorskip("torch")
    return load_engine(builtin.path(), engine=request.param)


def test_a_held_out_text_costs_the_recorded_bits_per_byte(engine, tokenizer) -> None:
    text = EXCERPT.read_text(encoding="utf-8")
    ids = tokenizer.encode(text)
    sequence = engine.new_sequence()
    [output] = engine.forward([(sequence, [tokenizer.eos_token_id, *ids[:-1]])], logits="all")
    logits = output.logits.astype(np.float64)
    chosen = logits[np.arange(len(ids)), ids]
    peaks = logits.max(axis=1)
    nats = (peaks + np.log(np.exp(logits - peaks[:, None]).sum(axis=1)) - chosen).sum()
    assert nats / math.log(2) / len(text.encode()) == pytest.approx(BITS_PER_BYTE, abs=TOLERANCE)


def test_it_generates_words(engine, tokenizer) -> None:
    prompt = tokenizer.encode("It is a truth universally acknowledged, that")
    [ids] = engine.generate([prompt], max_new_tokens=40, seed=1)
    words = tokenizer.decode(ids).split()
    assert len(words) > 15
    assert sum(word.strip(".,;:!?\"'-").isalpha() for word in words) > len(words) / 2


def test_the_tokenizer_agrees_with_the_library_that_trained_it(tokenizer) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    folder = builtin.path()
    theirs = tokenizers.ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    text = EXCERPT.read_text(encoding="utf-8") + " naïve café 12,345 \n\n\t  end"
    ids = tokenizer.encode(text)
    assert ids == theirs.encode(text).ids
    assert tokenizer.decode(ids) == text


def test_the_folder_is_complete_and_small() -> None:
    folder = builtin.path()
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert sorted(vocabulary.values()) == list(range(config["vocab_size"]))
    assert vocabulary["<|endoftext|>"] == config["eos_token_id"] == config["vocab_size"] - 1
    assert config["dtype"] == "float16"
    assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) < 20_000_000


def test_the_model_card_names_data_licence_and_figures() -> None:
    card = (builtin.path() / "README.md").read_text(encoding="utf-8")
    for word in ("Persuasion", "public domain", "bits per byte", "xz", "Limits"):
        assert word in card
