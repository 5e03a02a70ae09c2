"""Weights in 8 and 4 bits: the formats of bitsandbytes, defined in numpy.

codes.py has the numbers that few bits stand for, four_bit.py and eight_bit.py turn weights into them and back,
stored.py names their parts in files. No torch here: what runs these weights builds on this.
"""

from gpt2kit.quant.codes import CODES, dynamic_map
from gpt2kit.quant.eight_bit import Quantized8bit, dequantize_8bit, quantize_8bit
from gpt2kit.quant.four_bit import (
    BLOCKSIZE,
    NestedScales,
    Quantized4bit,
    dequantize_4bit,
    quantize_4bit,
    scales_4bit,
)
from gpt2kit.quant.stored import read_quantized, stored_parts

__all__ = [
    "BLOCKSIZE",
    "CODES",
    "NestedScales",
    "Quantized4bit",
    "Quantized8bit",
    "dequantize_4bit",
    "dequantize_8bit",
    "dynamic_map",
    "quantize_4bit",
    "quantize_8bit",
    "read_quantized",
    "scales_4bit",
    "stored_parts",
]
