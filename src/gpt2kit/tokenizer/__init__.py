"""Text to token ids and back: GPT-2's byte-level BPE with a C++ core.

Read in this order: bpe.py (the algorithm, in plain Python), gpt2.py (the class), calling.py (what a call
does), encoding.py (one encoded sample), vocabulary.py and loading.py (files).
"""

from gpt2kit.tokenizer.added_token import AddedToken
from gpt2kit.tokenizer.auto import AutoTokenizer
from gpt2kit.tokenizer.batch_encoding import BatchEncoding
from gpt2kit.tokenizer.gpt2 import GPT2Tokenizer, GPT2TokenizerFast
from gpt2kit.tokenizer.stream import StreamDecoder

__all__ = [
    "AddedToken",
    "AutoTokenizer",
    "BatchEncoding",
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "StreamDecoder",
]
