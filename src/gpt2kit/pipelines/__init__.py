"""Pipelines: a task, a model and its tokenizer behind one call.

Read factory.py (what pipeline() loads), base.py, then text_generation.py, or judging.py and the task's own file.
Streamers and the files of the tasks that judge texts are loaded on first use: plain generating waits for none.
"""

from importlib import import_module
from typing import Any

from gpt2kit.pipelines.base import Pipeline
from gpt2kit.pipelines.call_options import ReturnType
from gpt2kit.pipelines.factory import pipeline
from gpt2kit.pipelines.inputs import KeyDataset, KeyPairDataset
from gpt2kit.pipelines.prompts import PLAIN_CHAT_TEMPLATE
from gpt2kit.pipelines.text_generation import TextGenerationPipeline, TextPiece

# Public name -> the module that defines it.
_MODULES = {
    "AggregationStrategy": "gpt2kit.pipelines.entities",
    "AsyncTextIteratorStreamer": "gpt2kit.generation.streamers",
    "ClassificationFunction": "gpt2kit.pipelines.text_classification",
    "FeatureExtractionPipeline": "gpt2kit.pipelines.feature_extraction",
    "NerPipeline": "gpt2kit.pipelines.token_classification",
    "QuestionAnsweringPipeline": "gpt2kit.pipelines.question_answering",
    "TextClassificationPipeline": "gpt2kit.pipelines.text_classification",
    "TextIteratorStreamer": "gpt2kit.generation.streamers",
    "TextStreamer": "gpt2kit.generation.streamers",
    "TokenClassificationPipeline": "gpt2kit.pipelines.token_classification",
    "ZeroShotClassificationPipeline": "gpt2kit.pipelines.zero_shot_classification",
}

__all__ = [
    "PLAIN_CHAT_TEMPLATE",
    "KeyDataset",
    "KeyPairDataset",
    "Pipeline",
    "ReturnType",
    "TextGenerationPipeline",
    "TextPiece",
    "pipeline",
    *_MODULES,
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'gpt2kit.pipelines' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
