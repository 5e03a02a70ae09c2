"""Change the scores before a token is chosen: here, no token with the letter e."""

import numpy as np

from gpt2kit import AutoTokenizer, builtin, load_engine
from gpt2kit.generation import generate

tokenizer = AutoTokenizer.from_pretrained(builtin.path())
engine = load_engine(builtin.path())
has_e = np.array(["e" in tokenizer.decode([token_id]).lower() for token_id in range(len(tokenizer))])


def without_e(token_ids: list[int], scores: np.ndarray) -> np.ndarray:
    return np.where(has_e, -np.inf, scores)


prompt = tokenizer.encode("A man and a dog")
[row] = generate(engine, [prompt], max_new_tokens=20, do_sample=False, logits_processor=[without_e])
text = tokenizer.decode(row.ids)
assert "e" not in text.lower()
print(text)
