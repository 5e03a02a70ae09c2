"""Generation: options, logits processors, sampling, stopping and the loops, over any engine, in numpy.

Read options.py (what the configuration comes to), loop.py and row_loop.py (the loop), processors/, sampling.py and
random.py (how a token is chosen), text.py (stop strings); then beams/ and strategies/ (other ways of choosing).
"""

from gpt2kit.generation.loop import generate, is_standard
from gpt2kit.generation.options import Options
from gpt2kit.generation.processors.chain import Custom, LogitsProcessor
from gpt2kit.generation.protocol import Engine, NativeLoop, Output, Sequence
from gpt2kit.generation.random import coin
from gpt2kit.generation.rows import Generated
from gpt2kit.generation.sampling import sample

__all__ = [
    "Custom",
    "Engine",
    "Generated",
    "LogitsProcessor",
    "NativeLoop",
    "Options",
    "Output",
    "Sequence",
    "coin",
    "generate",
    "is_standard",
    "sample",
]
