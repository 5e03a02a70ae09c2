"""Beam search: many continuations of a prompt side by side, the best ones kept.

Read search.py (the batch), prompt.py (one prompt), group.py (the rules), candidates.py, then constraints.py and
coverage.py (sequences that must hold given phrases).
"""
