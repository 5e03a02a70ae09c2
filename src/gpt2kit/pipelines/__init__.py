"""Pipelines: a task, a model and its tokenizer behind one call.

Read factory.py (what pipeline() loads), base.py, then text_generation.py, or judging.py and the task's own file.
The files of the tasks that judge texts are loaded on first use, so that generating does not wait for them.
"""

from importlib import import_module
from typing import Any

from gpt2kit.generation.streamers import AsyncTextIteratorStreamer, TextIteratorStreamer, TextStreamer
from gpt2kit.pipelines.base import Pipeline
from gpt2kit.pipelines.call_options import ReturnType
from gpt2kit.pipelines.factory import pipeline
from gpt2kit.pipelines.inputs import KeyDataset, KeyPairDataset
from gpt2kit.pipelines.prompts import PLAIN_CHAT_TEMPLATE
from gpt2kit.pipelines.text_generation import TextGenerationPipeline, TextPiece

# Public name -> the module that defines it.
_MODULES = {
    "AggregationStrategy": "entities",
    "ClassificationFunction": "text_classification",
    "FeatureExtractionPipeline": "feature_extraction",
    "NerPipeline": "token_classification",
    "QuestionAnsweringPipeline": "question_answering",
    "TextClassificationPipeline": "text_classification",
    "TokenClassificationPipeline": "token_classification",
    "ZeroShotClassificationPipeline": "zero_shot_classification",
}

__all__ = [
    "AsyncTextIteratorStreamer",
    "PLAIN_CHAT_TEMPLATE",
    "KeyDataset",
    "KeyPairDataset",
    "Pipeline",
    "ReturnType",
    "TextGenerationPipeline",
    "TextIteratorStreamer",
    "TextPiece",
    "TextStreamer",
    "pipeline",
    *_MODULES,
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'gpt2kit.pipelines' has no attribute {name!r}")
    return getattr(import_module(f"gpt2kit.pipelines.{_MODULES[name]}"), name)
