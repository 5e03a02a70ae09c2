"""model.generate(): tensors in, tensors out, around the generation that all engines share.

Read generate.py (the call), prompts.py (padding to ragged rows), engines.py (native or torch), caches.py,
callables.py and streaming.py (the caller's objects), outputs.py (what comes back). For callers to construct:
processors.py, warpers.py, guidance_processors.py, watermark_processors.py and criteria.py.
"""

from gpt2kit.torch_generation.generate import generate
from gpt2kit.torch_generation.healing import heal_tokens
from gpt2kit.torch_generation.outputs import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from gpt2kit.torch_generation.scoring import score_texts
from gpt2kit.torch_generation.transition_scores import compute_transition_scores

__all__ = [
    "GenerateBeamDecoderOnlyOutput",
    "GenerateDecoderOnlyOutput",
    "compute_transition_scores",
    "generate",
    "heal_tokens",
    "score_texts",
]
