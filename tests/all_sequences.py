"""Brute force for searches: every sequence that a tiny model can give, scored."""

from __future__ import annotations

import numpy as np

from fakes import FakeEngine
from gpt2kit.config import GPT2Config


def tiny_engine(vocab_size):
    """A FakeEngine with few tokens, of which 0 is the end token."""
    config = GPT2Config(
        vocab_size=vocab_size, n_positions=64, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0
    )
    return FakeEngine(config=config)


def log_p(engine, ids):
    """The model's log-probabilities (V,) in float64."""
    logits = engine.logits(list(ids)).astype(np.float64)
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def all_sequences(engine, prompt, max_new_tokens, eos_token_ids, length_penalty):
    """Return (score, new ids) of all complete continuations, best first."""
    found = []
    growing = [([], 0.0)]
    while growing:
        ids, total = growing.pop()
        if ids and (ids[-1] in eos_token_ids or len(ids) == max_new_tokens):
            found.append((total / len(ids) ** length_penalty, ids))
            continue
        scores = log_p(engine, prompt + ids)
        growing += [([*ids, token], total + scores[token]) for token in range(len(scores))]
    return sorted(found, reverse=True)


def contains(ids, phrase):
    """Whether a phrase occurs in ids."""
    return any(ids[i : i + len(phrase)] == list(phrase) for i in range(len(ids)))
