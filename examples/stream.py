"""Print a text while it is written."""

from gpt2kit import pipeline

pipe = pipeline("text-generation")
prompt = "It was a dark night"
print(prompt, end="")
for piece in pipe.stream(prompt, max_new_tokens=40, seed=1):
    print(piece, end="", flush=True)
print()
