"""Score a text token by token: log-probabilities, perplexity and bits per byte."""

from gpt2kit import AutoTokenizer, builtin, load_engine, score

tokenizer = AutoTokenizer.from_pretrained(builtin.path())
engine = load_engine(builtin.path())
[result] = score(engine, tokenizer, ["The family of Dashwood had long been settled in Sussex."])

for token, log_probability in zip(result.tokens, result.log_probabilities, strict=True):
    print(f"{log_probability:8.3f} {token!r}")
print("perplexity", result.perplexity)
print("bits per byte", result.bits_per_byte)
