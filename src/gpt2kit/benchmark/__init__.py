"""How fast an engine is, and how fast it could be: what `gpt2kit bench` prints.

Read work.py (the bytes and operations that a token takes), then measure.py (the timing); memory.py has the peak of
the process. The machine's own limits are measured in native/src/roofline.cpp.
"""
