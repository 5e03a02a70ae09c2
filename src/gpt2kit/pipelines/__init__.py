"""Pipelines: a task, a model and its tokenizer behind one call.

Read factory.py (what pipeline() loads), base.py, then text_generation.py, or judging.py and the task's own file.
"""

from gpt2kit.pipelines.base import Pipeline
from gpt2kit.pipelines.call_options import ReturnType
from gpt2kit.pipelines.entities import AggregationStrategy
from gpt2kit.pipelines.factory import pipeline
from gpt2kit.pipelines.feature_extraction import FeatureExtractionPipeline
from gpt2kit.pipelines.inputs import KeyDataset, KeyPairDataset
from gpt2kit.pipelines.prompts import PLAIN_CHAT_TEMPLATE
from gpt2kit.pipelines.question_answering import QuestionAnsweringPipeline
from gpt2kit.pipelines.streamers import TextIteratorStreamer, TextStreamer
from gpt2kit.pipelines.text_classification import ClassificationFunction, TextClassificationPipeline
from gpt2kit.pipelines.text_generation import TextGenerationPipeline, TextPiece
from gpt2kit.pipelines.token_classification import TokenClassificationPipeline
from gpt2kit.pipelines.zero_shot_classification import ZeroShotClassificationPipeline

NerPipeline = TokenClassificationPipeline

__all__ = [
    "PLAIN_CHAT_TEMPLATE",
    "AggregationStrategy",
    "ClassificationFunction",
    "FeatureExtractionPipeline",
    "KeyDataset",
    "KeyPairDataset",
    "NerPipeline",
    "Pipeline",
    "QuestionAnsweringPipeline",
    "ReturnType",
    "TextClassificationPipeline",
    "TextGenerationPipeline",
    "TextIteratorStreamer",
    "TextPiece",
    "TextStreamer",
    "TokenClassificationPipeline",
    "ZeroShotClassificationPipeline",
    "pipeline",
]
