"""Continue prompts of different lengths at once: no padding, and each as if it were alone."""

from gpt2kit import pipeline

pipe = pipeline("text-generation")
prompts = ["In the beginning", "She was not a woman of many words, and when", "Blessed are they"]
together = pipe(prompts, max_new_tokens=15, seed=3, return_full_text=False)
for prompt, rows in zip(prompts, together, strict=True):
    alone = pipe(prompt, max_new_tokens=15, seed=3, return_full_text=False)
    assert rows == alone
    print(f"{prompt} |{rows[0]['generated_text']}")
