"""The bytes and operations of a token, against sums over the layers written out."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2kit.benchmark.work import decode_work, prefill_work, streamed_bytes
from gpt2kit.config import GPT2Config

CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=8, n_inner=20, vocab_size=11, n_positions=16)
BLOCK = 8 * 24 + 8 * 8 + 8 * 20 + 20 * 8
WEIGHTS = {
    "wte.weight": np.zeros((11, 8), np.float32),
    "wpe.weight": np.zeros((16, 8), np.float32),
    "h.0.attn.c_attn.weight": np.zeros((8, 24), np.float16),
}


def test_a_step_reads_each_weight_once_and_the_cache_of_every_row() -> None:
    assert streamed_bytes(WEIGHTS) == 11 * 8 * 4 + 8 * 24 * 2
    cached = 2 * 2 * 8 * 4 * 5  # keys and values, layers, channels, bytes, tokens
    assert decode_work(CONFIG, WEIGHTS, 5).read_bytes == streamed_bytes(WEIGHTS) + cached
    assert decode_work(CONFIG, WEIGHTS, 5, 3).read_bytes == streamed_bytes(WEIGHTS) + 3 * cached


def test_a_shorter_cache_takes_its_bytes_and_its_scales() -> None:
    weights = streamed_bytes(WEIGHTS)
    halves = 2 * 2 * 8 * 2 * 5
    assert decode_work(CONFIG, WEIGHTS, 5, 3, "bfloat16").read_bytes == weights + 3 * halves
    with_scales = 2 * 2 * (8 * 1 + 2 * 4) * 5  # one of four bytes for each head
    assert decode_work(CONFIG, WEIGHTS, 5, 3, "int8").read_bytes == weights + 3 * with_scales


def test_a_copy_of_the_head_is_read_in_its_place() -> None:
    full, copied = decode_work(CONFIG, WEIGHTS, 5), decode_work(CONFIG, WEIGHTS, 5, head_copy_bytes=100)
    assert copied.read_bytes == full.read_bytes - 11 * 8 * 4 + 100


def test_of_an_untied_model_the_head_is_read_and_not_the_embeddings() -> None:
    weights = {**WEIGHTS, "lm_head.weight": np.zeros((11, 8), np.float16)}
    assert streamed_bytes(weights) == 11 * 8 * 2 + 8 * 24 * 2


def test_operations_of_a_step() -> None:
    attention = 2 * (
        2 * 8 * 6 + 2 * 8 * 6
    )  # two layers; six tokens with the new one: products with keys, values
    expected = 2 * (2 * BLOCK + 11 * 8) + attention
    assert decode_work(CONFIG, WEIGHTS, 5).operations == expected
    assert decode_work(CONFIG, WEIGHTS, 5, 3).operations == 3 * expected


def test_a_prompt_takes_what_its_tokens_take_but_for_the_logits() -> None:
    steps = sum(decode_work(CONFIG, WEIGHTS, past).operations for past in range(7))
    assert prefill_work(CONFIG, WEIGHTS, 7).operations == steps - 6 * 2 * 11 * 8
    assert prefill_work(CONFIG, WEIGHTS, 7).read_bytes == streamed_bytes(WEIGHTS)


def test_work_is_divided_among_tokens() -> None:
    whole = prefill_work(CONFIG, WEIGHTS, 4)
    each = whole / 4
    assert (each.read_bytes * 4, each.operations * 4) == pytest.approx((whole.read_bytes, whole.operations))
