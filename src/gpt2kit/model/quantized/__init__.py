"""Layers whose weights are held in 8 and 4 bits, as bitsandbytes holds them.

Read linear.py, linear_4bit.py and linear_8bit.py (the layers), quantizer.py (how a model gets them) and access.py
(what a quantised model offers besides).
"""
