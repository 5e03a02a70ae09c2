"""Logits processors: functions of the ids so far and the scores (V,) of the next token, to scores (V,).

Read chain.py (which ones, in which order) and scores.py (their arithmetic), then bans.py, penalties.py,
warpers.py, guidance.py, watermark.py and synthid.py.
"""
