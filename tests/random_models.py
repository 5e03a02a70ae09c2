"""Random GPT-2s for tests: Transformers' model, our configuration and its weights as arrays."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import transformers

from gpt2kit.config import GPT2Config

ACTIVATIONS = ["gelu_new", "gelu_new", "gelu", "relu", "silu", "tanh", "gelu_pytorch_tanh", "quick_gelu"]


def random_options(rng: random.Random) -> dict[str, Any]:
    """Return keyword arguments of GPT2Config for a small model of any allowed shape."""
    n_head = rng.randint(1, 5)
    head_size = rng.choice([1, 3, 8, 16, 20, 32, 64])
    vocab_size = rng.randint(3, 300)
    scale_attn_weights = rng.random() < 0.8
    return {
        "n_layer": rng.randint(1, 4),
        "n_head": n_head,
        "n_embd": n_head * head_size,
        "n_positions": rng.randint(2, 100),
        "vocab_size": vocab_size,
        "n_inner": rng.choice([None, None, 1, 7, 33, 64]),
        "activation_function": rng.choice(ACTIVATIONS),
        "layer_norm_epsilon": rng.choice([1e-5, 1e-3]),
        "scale_attn_weights": scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": rng.random() < 0.3,
        "reorder_and_upcast_attn": rng.random() < 0.3,
        "tie_word_embeddings": rng.random() < 0.7,
        "bos_token_id": vocab_size - 1,
        "eos_token_id": vocab_size - 1,
        # A gain of about one for every matrix, so that attention and activations matter; much above it a
        # softmax picks between near ties of large scores, where float32 itself is off by the tolerance.
        "initializer_range": (1.2 if scale_attn_weights else 0.5) / (n_head * head_size) ** 0.5,
    }


def random_model(
    seed: int, **overrides: Any
) -> tuple[transformers.GPT2LMHeadModel, GPT2Config, dict[str, np.ndarray]]:
    """Return the oracle with random weights, biases and norms included, and the same for us."""
    options = random_options(random.Random(seed)) | overrides
    torch.manual_seed(seed)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**options, attn_implementation="eager")
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    weights = {
        name.removeprefix("transformer."): tensor.numpy() for name, tensor in model.state_dict().items()
    }
    if options["tie_word_embeddings"]:
        del weights["lm_head.weight"]
    return model, GPT2Config(**options), weights


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference over the largest expected value."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def random_pair(seed: int, **overrides: Any) -> tuple[transformers.GPT2LMHeadModel, Any]:
    """Return the oracle and our torch model with the same random weights."""
    from gpt2kit.model import GPT2LMHeadModel

    oracle, config, _ = random_model(seed, **overrides)
    ours = GPT2LMHeadModel(config).eval()
    ours.load_state_dict(oracle.state_dict())
    return oracle, ours
