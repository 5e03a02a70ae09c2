"""Other ways of choosing tokens than greedy decoding, sampling and beams.

Read options.py (which one is asked for) and choose.py (its loop), then contrastive.py, dola.py, and speculation.py with drafters.py.
"""
