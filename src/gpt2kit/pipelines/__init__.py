"""Pipelines: a task, a model and its tokenizer behind one call.

Read factory.py (what pipeline() loads), text_generation.py (the task) and device.py (where it runs).
"""

from gpt2kit.generation.streamers import AsyncTextIteratorStreamer, TextIteratorStreamer, TextStreamer
from gpt2kit.pipelines.call_options import ReturnType
from gpt2kit.pipelines.factory import pipeline
from gpt2kit.pipelines.text_generation import TextGenerationPipeline, TextPiece

__all__ = [
    "AsyncTextIteratorStreamer",
    "ReturnType",
    "TextGenerationPipeline",
    "TextIteratorStreamer",
    "TextPiece",
    "TextStreamer",
    "pipeline",
]
