"""Random options of logits processors, for whole generations that are compared with Transformers."""

from __future__ import annotations

import random
from typing import Any

VOCAB_SIZE = 60


def random_processor_options(rng: random.Random) -> dict[str, Any]:
    """Return keyword arguments of generate(), none of which contradict."""

    def ids(count: int) -> list[int]:
        return [rng.randrange(VOCAB_SIZE) for _ in range(count)]

    choices: dict[str, Any] = {
        "sequence_bias": {tuple(ids(rng.randint(1, 2))): rng.choice([-3.0, 4.0]) for _ in range(8)},
        "encoder_repetition_penalty": rng.choice([0.7, 1.5]),
        "repetition_penalty": rng.choice([0.8, 1.3]),
        "no_repeat_ngram_size": rng.randint(1, 3),
        "encoder_no_repeat_ngram_size": rng.randint(1, 3),
        "bad_words_ids": [ids(rng.randint(1, 2)) for _ in range(5)],
        "min_new_tokens": rng.choice([3, 50]),
        "min_length": rng.choice([5, 12]),
        "forced_bos_token_id": rng.randrange(VOCAB_SIZE),
        "forced_eos_token_id": rng.choice([ids(1), ids(2)]),
        "remove_invalid_values": True,
        "exponential_decay_length_penalty": rng.choice([(0, 1.2), (4, 1.05)]),
        "suppress_tokens": ids(6),
        "begin_suppress_tokens": ids(6),
        "guidance_scale": rng.choice([0.5, 1.5, 3.0]),
        "watermarking_config": rng.choice(
            [{"bias": 2.0}, {"seeding_scheme": "selfhash", "context_width": 2}]
        ),
        "renormalize_logits": True,
    }
    options = {name: value for name, value in choices.items() if rng.random() < 0.3}
    if "exponential_decay_length_penalty" in options:  # makes a banned end token infinite in Transformers
        options.pop("remove_invalid_values", None)
    if set(options.get("forced_eos_token_id", [])) <= set(options.get("suppress_tokens", [])):
        options.pop("suppress_tokens", None)
    if options.get("forced_bos_token_id") in options.get("suppress_tokens", []):
        options.pop("suppress_tokens", None)
    return {**options, "max_new_tokens": rng.randint(1, 15), "eos_token_id": ids(rng.randint(1, 3))}
