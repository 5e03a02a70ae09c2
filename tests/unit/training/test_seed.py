"""set_seed(): the same draws again."""

import random

import numpy as np
import torch

import gpt2kit


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_every_generator_starts_again() -> None:
    gpt2kit.set_seed(5)
    first = draws()
    assert draws() != first
    gpt2kit.set_seed(5)
    assert draws() == first
    gpt2kit.set_seed(2**40)  # more than numpy takes
    assert draws() != first


def test_sampling_repeats() -> None:
    model = gpt2kit.GPT2LMHeadModel(gpt2kit.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2)).eval()
    texts = []
    for _ in range(2):
        gpt2kit.set_seed(1)
        texts.append(model.generate(torch.tensor([[1, 2]]), do_sample=True, max_new_tokens=8).tolist())
    assert texts[0] == texts[1]


def test_deterministic_operations() -> None:
    try:
        gpt2kit.set_seed(1, deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
