"""Find the sentences nearest to a question by their hidden states, without torch."""

import numpy as np

from gpt2kit import pipeline

sentences = [
    "The ship sailed from the harbour at dawn.",
    "My sister has married a clergyman.",
    "A storm rose and the waves beat upon the deck.",
    "The bride wore white, and her mother wept.",
]
question = "They were wed in the little church."

pipe = pipeline("feature-extraction", return_tensors="np")
# The last token has read the whole sentence; the mean of all tokens says more about its words.
vectors = np.array([features[0].mean(axis=0) for features in pipe([*sentences, question])])
vectors -= vectors.mean(axis=0)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
nearness = vectors[:-1] @ vectors[-1]
print(question)
for index in np.argsort(-nearness):
    print(f"{nearness[index]:6.3f}  {sentences[index]}")
