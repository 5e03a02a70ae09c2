"""Generation: options, logits processors, sampling, stopping and the loop, over any engine, in numpy."""

from gpt2kit.generation.protocol import Engine, Output, Sequence

__all__ = ["Engine", "Output", "Sequence"]
