"""Continue a text from the keys and values of its beginning, kept in full or in 4 bits (gpt2kit[torch])."""

import torch

from gpt2kit import AutoTokenizer, DynamicCache, GPT2LMHeadModel, QuantizedCache, builtin

tokenizer = AutoTokenizer.from_pretrained(builtin.path())
model = GPT2LMHeadModel.from_pretrained(builtin.path(), dtype=torch.float32)
inputs = tokenizer("It was the best of times, it was the worst of times,", return_tensors="pt")

for cache in (DynamicCache(), QuantizedCache(nbits=4, residual_length=8)):
    text = model.generate(**inputs, past_key_values=cache, max_new_tokens=8)
    # The cache holds all but the last token; the next call runs that one and the new ones only.
    held = cache.get_seq_length()
    assert held == text.shape[1] - 1
    more = model.generate(text, past_key_values=cache, max_new_tokens=8)
    print(
        f"{type(cache).__name__:14} held {held:2}: {tokenizer.decode(more[0, inputs['input_ids'].shape[1] :])!r}"
    )

# A beginning that several texts share is run once.
cache = DynamicCache()
with torch.no_grad():
    model(**tokenizer("The doctor said that the patient", return_tensors="pt"), past_key_values=cache)
for ending in (" would live", " had gone"):
    branch = cache.fork()
    new = tokenizer(ending, return_tensors="pt")["input_ids"]
    mask = torch.ones(1, branch.get_seq_length() + new.shape[1])
    rows = model.generate(new, attention_mask=mask, past_key_values=branch, max_new_tokens=8)
    print(repr(tokenizer.decode(rows[0])))
