"""Ways of choosing tokens: one prompt continued by each, without torch."""

from gpt2kit import pipeline

pipe = pipeline("text-generation", do_sample=False, max_new_tokens=16, return_full_text=False)
prompt = "The captain looked at"
sea = pipe.tokenizer.encode(" sea")

ways = {
    "greedy": {},
    "beams": {"num_beams": 4},
    "diverse beams": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    "beams that must say sea": {"num_beams": 4, "force_words_ids": [sea]},
    "contrastive search": {"penalty_alpha": 0.6, "top_k": 4},
    "DoLa": {"dola_layers": "low"},
    "sampling": {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "seed": 3},
}
for name, options in ways.items():
    [row] = pipe(prompt, **options)
    print(f"{name:24} |{row['generated_text']}")

# Guesses that are checked in one pass of the model: the same text, in fewer steps where the guesses are good.
[greedy] = pipe(prompt)
for options in ({"prompt_lookup_num_tokens": 3}, {"assistant_early_exit": 1}):
    assert pipe(prompt, **options) == [greedy]

# Past what the model can see at once, a window slides over the text.
window = pipe.config.n_positions
[row] = pipe.generate([prompt], max_new_tokens=window + 8, eos_token_id=[], long_generation="slide")
print(len(row.ids), "new tokens by a model that sees", window)
