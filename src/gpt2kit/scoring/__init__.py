"""Scoring: how probable a text is to a model, over any engine, in numpy.

Read tokens.py (token ids to log-probabilities, by sliding windows), then text.py (texts to scores).
"""

from gpt2kit.scoring.text import Score, Total, score, total
from gpt2kit.scoring.tokens import log_probabilities, resolve_window

__all__ = ["Score", "Total", "log_probabilities", "resolve_window", "score", "total"]
