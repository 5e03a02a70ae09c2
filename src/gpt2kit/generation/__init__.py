"""Generation: options, logits processors, sampling, stopping and the loops, over any engine, in numpy.

Read options.py (what the configuration comes to), loop.py and row_loop.py (the loop), processors/, sampling.py and
random.py (how a token is chosen), text.py (stop strings); then beams/ and strategies/ (other ways of choosing).
"""

from typing import TYPE_CHECKING, Any

from gpt2kit.generation.loop import generate, is_standard
from gpt2kit.generation.options import Options
from gpt2kit.generation.processors.custom import Custom
from gpt2kit.generation.protocol import Engine, NativeLoop, Output, Sequence
from gpt2kit.generation.random import coin
from gpt2kit.generation.rows import Generated

if TYPE_CHECKING:
    from gpt2kit.generation.processors.scores import LogitsProcessor
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


def __getattr__(name: str) -> Any:
    # What needs numpy, which a native generation does without.
    if name == "sample":
        from gpt2kit.generation.sampling import sample

        return sample
    if name == "LogitsProcessor":
        from gpt2kit.generation.processors.scores import LogitsProcessor

        return LogitsProcessor
    import gpt2kit

    if (
        name in gpt2kit.__all__
    ):  # `transformers.generation` has GenerationConfig, the processors, the streamers
        return getattr(gpt2kit, name)
    raise AttributeError(f"module 'gpt2kit.generation' has no attribute {name!r}")
