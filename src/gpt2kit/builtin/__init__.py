"""The small GPT-2 that comes with the package: config, weights, vocabulary and model card (README.md)."""

from pathlib import Path


def path() -> Path:
    """Give the model's folder, which every function that takes a model folder accepts."""
    return Path(__file__).parent
