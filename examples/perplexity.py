"""Score a text token by token: log-probabilities, perplexity and bits per byte."""

import numpy as np

from gpt2kit import AutoTokenizer, builtin, load_engine

text = "The family of Dashwood had long been settled in Sussex."
tokenizer = AutoTokenizer.from_pretrained(builtin.path())
engine = load_engine(builtin.path())
ids = tokenizer.encode(text)
[output] = engine.forward([(engine.new_sequence(), [tokenizer.bos_token_id, *ids])], logits="all")

logits = output.logits[:-1].astype(np.float64)
log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
scores = log_probabilities[np.arange(len(ids)), ids]
for token_id, score in zip(ids, scores, strict=True):
    print(f"{score:8.3f} {tokenizer.decode([token_id])!r}")
print("perplexity", np.exp(-scores.mean()))
print("bits per byte", -scores.sum() / np.log(2) / len(text.encode()))
