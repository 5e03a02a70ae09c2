"""Keys and values that attention has already seen.

Read base.py (what every cache does), caches.py (the kinds), layers.py (how one layer holds its tensors) and
quantized.py (in 8 and 4 bits).
"""
