"""Token healing: the last token of a prompt is chosen again among the tokens that begin with its text.

A prompt that ends within a word, or with a space, ends with a token that the model has rarely seen there: "htt"
is "ht" and "t", while the text went on as "http". So the last token is taken back and the model picks it anew,
out of those whose text begins with what was taken back. The prompt keeps its number of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpt2kit.generation.protocol import Engine
from gpt2kit.generation.window import window_start

# Added to the score of the token that was there, so that "http" does not become "https" without need. As in
# Transformers.
STAY_BIAS = 1.0


def heal_prompts(engine: Engine, tokenizer: Any, prompts: Sequence[list[int]]) -> list[list[int]]:
    """Return the prompts with their last tokens chosen again, greedily, in one forward pass.

    tokenizer: has Transformers' get_vocab, convert_ids_to_tokens and all_special_ids. A prompt of one token, one
    that ends with a special token and one whose last token nothing extends stay as they are. No special token is
    an extension.
    """
    healed = [list(prompt) for prompt in prompts]
    ends = sorted({prompt[-1] for prompt in prompts if len(prompt) > 1})
    extensions = {end: _extensions(tokenizer, end, engine.config.vocab_size) for end in ends}
    candidates = [prompt for prompt in healed if len(prompt) > 1 and len(extensions[prompt[-1]]) > 1]
    work = [(engine.new_sequence(), _context(prompt, engine.config.n_positions)) for prompt in candidates]
    try:
        outputs = engine.forward(work) if work else []
    finally:
        for sequence, _ in work:
            sequence.free()
    for prompt, output in zip(candidates, outputs, strict=True):
        assert output.logits is not None
        options = extensions[prompt[-1]]
        scores = output.logits[options]
        scores[options.index(prompt[-1])] += STAY_BIAS
        prompt[-1] = options[int(scores.argmax())]
    return healed


def _context(prompt: list[int], n_positions: int) -> list[int]:
    """Return what of a prompt without its last token the model sees when that is chosen; see window.py."""
    start = min(window_start(len(prompt), n_positions), len(prompt) - 2)
    return prompt[start:-1]


def _extensions(tokenizer: Any, token_id: int, vocab_size: int) -> list[int]:
    """Return the ids, ascending, of the tokens whose text begins with a token's; none for a special token."""
    special = set(tokenizer.all_special_ids)
    beginning = tokenizer.convert_ids_to_tokens(token_id)
    if beginning is None or token_id in special:
        return []
    return sorted(
        other
        for token, other in tokenizer.get_vocab().items()
        if token.startswith(beginning) and other < vocab_size and other not in special
    )
