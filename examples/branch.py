"""Continue one prompt in several ways without running it again: fork the sequence that holds its cache."""

from gpt2kit import AutoTokenizer, builtin, load_engine

tokenizer = AutoTokenizer.from_pretrained(builtin.path())
engine = load_engine(builtin.path())
trunk = engine.new_sequence()
[output] = engine.forward([(trunk, tokenizer.encode("And the Lord said unto"))])

best = output.logits.argsort()[::-1][:3]
branches = [(trunk.fork(), [int(token_id)]) for token_id in best]
for (_, [first]), after in zip(branches, engine.forward(branches), strict=True):
    print(tokenizer.decode([first]), "->", tokenizer.decode([int(after.logits.argmax())]))
