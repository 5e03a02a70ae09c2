"""Weights in 8 and 4 bits, defined in numpy: the formats of bitsandbytes, and int8 of the native engine.

codes.py has the numbers that few bits stand for, four_bit.py and eight_bit.py turn weights into them and back,
stored.py names their parts in files. int8.py is the native engine's. No torch here: what runs these weights builds
on this.
"""

from gpt2kit.checkpoint.packed import PackedInt8
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
from gpt2kit.quant.int8 import (
    Int8Matrix,
    dequantize_int8,
    pack_int8,
    packed_int8,
    quantize_int8,
    unpack_int8,
)
from gpt2kit.quant.stored import read_quantized, stored_parts

__all__ = [
    "BLOCKSIZE",
    "CODES",
    "Int8Matrix",
    "NestedScales",
    "PackedInt8",
    "Quantized4bit",
    "Quantized8bit",
    "dequantize_4bit",
    "dequantize_8bit",
    "dequantize_int8",
    "dynamic_map",
    "pack_int8",
    "packed_int8",
    "quantize_4bit",
    "quantize_8bit",
    "quantize_int8",
    "read_quantized",
    "scales_4bit",
    "stored_parts",
    "unpack_int8",
]
