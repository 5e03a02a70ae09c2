"""The engines: NativeEngine (C++, no torch) and TorchEngine (PyTorch), and the choice of one.

Both speak token ids and implement `gpt2kit.generation.protocol.Engine`.
"""

from gpt2kit.engine.load import choose_engine, load_engine
from gpt2kit.engine.native import NativeEngine
from gpt2kit.engine.packed import quantize_folder

__all__ = ["NativeEngine", "choose_engine", "load_engine", "quantize_folder"]
