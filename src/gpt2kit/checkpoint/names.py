"""The one table of tensor names, shapes and layouts of a GPT-2 checkpoint. Touches no file and no array.

Names here are canonical: without the `transformer.` that models with a head put in front of the trunk.
Letters: V vocab_size, P n_positions, C n_embd, I n_inner, N labels, A what a layer's attention heads take of C,
which is all of it unless heads are pruned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from gpt2kit.config import GPT2Config

TRUNK_PREFIX = "transformer."
WTE = "wte.weight"
LM_HEAD = "lm_head.weight"

# Per block: (name, shape in letters). A Conv1D weight is stored (in, out), so y = x @ weight + bias.
BLOCK: tuple[tuple[str, str], ...] = (
    ("ln_1.weight", "C"),
    ("ln_1.bias", "C"),
    ("attn.c_attn.weight", "C 3A"),
    ("attn.c_attn.bias", "3A"),
    ("attn.c_proj.weight", "A C"),
    ("attn.c_proj.bias", "C"),
    ("ln_2.weight", "C"),
    ("ln_2.bias", "C"),
    ("mlp.c_fc.weight", "C I"),
    ("mlp.c_fc.bias", "I"),
    ("mlp.c_proj.weight", "I C"),
    ("mlp.c_proj.bias", "C"),
)
# Per block, in models with add_cross_attention.
CROSS_ATTENTION: tuple[tuple[str, str], ...] = (
    ("crossattention.c_attn.weight", "C 2C"),
    ("crossattention.c_attn.bias", "2C"),
    ("crossattention.q_attn.weight", "C C"),
    ("crossattention.q_attn.bias", "C"),
    ("crossattention.c_proj.weight", "C C"),
    ("crossattention.c_proj.bias", "C"),
    ("ln_cross_attn.weight", "C"),
    ("ln_cross_attn.bias", "C"),
)
EMBEDDINGS: tuple[tuple[str, str], ...] = ((WTE, "V C"), ("wpe.weight", "P C"))
FINAL_NORM: tuple[tuple[str, str], ...] = (("ln_f.weight", "C"), ("ln_f.bias", "C"))
# Heads are torch's nn.Linear: the weight is (out, in). They stand beside the trunk, with no prefix.
HEADS: tuple[tuple[str, str], ...] = (
    (LM_HEAD, "V C"),  # left out when tied to wte.weight
    ("score.weight", "N C"),
    ("classifier.weight", "N C"),
    ("classifier.bias", "N"),
    ("qa_outputs.weight", "2 C"),
    ("qa_outputs.bias", "2"),
    ("multiple_choice_head.summary.weight", "N C"),
    ("multiple_choice_head.summary.bias", "N"),
)

# Causal masks that old files store beside the weights. Anchored: `attn.c_attn.bias` is a weight.
_MASK = re.compile(r"h\.\d+\.(attn|crossattention)\.(bias|masked_bias)")
# What stands in a quantised file beside a weight (4 bits, packed) or beside the weight of a module (8 bits).
_4BIT_PART = re.compile(
    r"(.+\.weight)\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.bitsandbytes__(nf4|fp4))"
)
_PACKED_PART = re.compile(r"(.+\.weight)\.(scales|nested_offset)")
_8BIT_PART = re.compile(r"(.+)\.(SCB|weight_format)")
_CONV1D = re.compile(r"h\.\d+\.(attn|crossattention|mlp)\.(c_attn|q_attn|c_proj|c_fc)\.weight")
# OpenAI's names: model/wte, model/ln_f/g, model/h0/attn/c_attn/w. g is a norm's gain.
_TENSORFLOW = re.compile(
    r"model/(?:h(?P<layer>\d{1,4})/)?"
    r"(?P<part>wte|wpe|ln_[12f]|(?:attn|mlp)/c_(?:attn|proj|fc))(?:/(?P<leaf>[gwb]))?"
)


def canonical_name(name: str) -> str | None:
    """Give the canonical name of a tensor of a file, or None for a stored mask, which is not a weight."""
    name = name.removeprefix(TRUNK_PREFIX)
    return None if _MASK.fullmatch(name) else name


def name_in_tensorflow(name: str) -> str:
    """Give the canonical name of a tensor of OpenAI's checkpoints; a name that is none is given back."""
    found = _TENSORFLOW.fullmatch(name)
    if found is None:
        return name
    block = f"h.{found['layer']}." if found["layer"] else ""
    leaf = "bias" if found["leaf"] == "b" else "weight"
    return f"{block}{found['part'].replace('/', '.')}.{leaf}"


def file_name(name: str, prefix: str = TRUNK_PREFIX) -> str:
    """Give the name in a file of a canonical name: the trunk gets the prefix, heads do not."""
    return prefix + name if is_trunk(name) else name


def is_trunk(name: str) -> bool:
    """Tell whether a canonical name belongs to the trunk (GPT2Model)."""
    return name.startswith(("wte.", "wpe.", "h.", "ln_f."))


def is_conv1d(name: str) -> bool:
    """Tell whether a canonical name is a Conv1D weight, stored (in, out)."""
    return _CONV1D.fullmatch(name) is not None


def quantized_weight(name: str) -> str | None:
    """Give the name of the weight that a tensor of a quantised file describes; None for any other tensor.

    >>> quantized_weight("h.0.mlp.c_fc.weight.absmax"), quantized_weight("h.0.mlp.c_fc.SCB")
    ('h.0.mlp.c_fc.weight', 'h.0.mlp.c_fc.weight')
    """
    if match := _4BIT_PART.fullmatch(name) or _PACKED_PART.fullmatch(name):
        return match[1]
    return f"{match[1]}.weight" if (match := _8BIT_PART.fullmatch(name)) else None


def quantized_parts(names: Iterable[str], weight: str) -> list[str]:
    """Give those names that describe the quantised weight."""
    start = weight.removesuffix("weight")
    return [name for name in names if name.startswith(start) and quantized_weight(name) == weight]


def trunk_shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """Give the shape of every tensor that a trunk of this configuration has, in order."""
    sizes = _sizes(config)
    block = BLOCK + (CROSS_ATTENTION if config.add_cross_attention else ())
    shapes = {name: _shape(letters, sizes) for name, letters in EMBEDDINGS}
    for i in range(config.n_layer):
        width = len(config.kept_heads(i)) * (config.n_embd // config.n_head)
        sizes |= {"A": width, "3A": 3 * width}
        shapes |= {f"h.{i}.{name}": _shape(letters, sizes) for name, letters in block}
    return shapes | {name: _shape(letters, sizes) for name, letters in FINAL_NORM}


def head_shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """Give the shape that each tensor of each head has when it is there; -1 for the number of labels.

    A head for other labels than the configuration's is the model's business, not the file's: fine-tuning
    replaces it.
    """
    sizes = {**_sizes(config), "N": -1}
    return {name: _shape(letters, sizes) for name, letters in HEADS}


def shapes_match(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Tell whether a shape is the expected one, where -1 stands for any size above zero."""
    return len(shape) == len(expected) and all(
        size == want or (want == -1 and size > 0) for size, want in zip(shape, expected, strict=True)
    )


def _sizes(config: GPT2Config) -> dict[str, int]:
    C = config.n_embd
    inner = config.n_inner if config.n_inner is not None else 4 * C
    return {
        "V": config.vocab_size,
        "P": config.n_positions,
        "C": C,
        "I": inner,
        "2C": 2 * C,
        "2": 2,
    }


def _shape(letters: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sizes[letter] for letter in letters.split())
