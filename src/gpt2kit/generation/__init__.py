"""Generation: options, logits processors, sampling, stopping and the loop, over any engine, in numpy.

Read options.py (what the configuration comes to), loop.py and row_loop.py (the loop), then processors.py (the
chain), bans.py, penalties.py, warpers.py, sampling.py and random.py (how a token is chosen), text.py (stop
strings), watermark.py, synthid.py and watermark_detector.py. Beams: beams.py (the batch), beams_prompt.py (one
prompt), beams_group.py (the rules), beams_candidates.py, beams_constraints.py and beams_coverage.py. Other ways
of choosing: strategies.py, then contrastive.py, dola.py, speculation.py and drafters.py.
"""

from gpt2kit.generation.beams_constraints import Constraint, DisjunctiveConstraint, PhrasalConstraint
from gpt2kit.generation.loop import generate, is_standard
from gpt2kit.generation.options import Options
from gpt2kit.generation.processors import Custom, LogitsProcessor
from gpt2kit.generation.protocol import Engine, NativeLoop, Output, Sequence
from gpt2kit.generation.random import coin
from gpt2kit.generation.rows import Generated
from gpt2kit.generation.sampling import sample
from gpt2kit.generation.watermark_detector import (
    SynthIDTextScorer,
    WatermarkDetector,
    WatermarkDetectorOutput,
)

__all__ = [
    "Constraint",
    "Custom",
    "DisjunctiveConstraint",
    "Engine",
    "Generated",
    "LogitsProcessor",
    "NativeLoop",
    "Options",
    "Output",
    "PhrasalConstraint",
    "Sequence",
    "SynthIDTextScorer",
    "WatermarkDetector",
    "WatermarkDetectorOutput",
    "coin",
    "generate",
    "is_standard",
    "sample",
]
