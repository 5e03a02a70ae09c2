"""Weights on disk: reading them safely, writing them atomically. names.py is the table of names and layouts.

Read reader.py first, then safetensors_file.py (the checks) and writer.py.
"""

from gpt2kit.checkpoint.dtypes import BFloat16Array, from_float32, to_float32
from gpt2kit.checkpoint.reader import Checkpoint, checkpoint_of_tensors, open_checkpoint
from gpt2kit.checkpoint.safetensors_file import TensorInfo
from gpt2kit.checkpoint.writer import save_checkpoint

__all__ = [
    "BFloat16Array",
    "Checkpoint",
    "TensorInfo",
    "checkpoint_of_tensors",
    "from_float32",
    "open_checkpoint",
    "save_checkpoint",
    "to_float32",
]
