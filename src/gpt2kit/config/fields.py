"""The settings of a GPT-2: their defaults and what each may be. Knows no file and no class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from gpt2kit.errors import ConfigError

MAX_PARAMETERS = 2**36  # 40 times GPT-2 XL: beyond it a shape is a mistake or an attack
MAX_LABELS = 2**16
_INT32 = 2**31 - 1  # token ids are int32 in the engines

ACTIVATIONS = (
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh",
    "gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "prelu", "quick_gelu",
    "relu", "relu2", "relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh", "xielu",
)  # fmt: skip
DTYPES = ("float32", "float16", "bfloat16", "float64")
SUMMARY_TYPES = ("last", "first", "mean", "cls_index", "attn")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")

# Takes the setting's name and the given value; gives the value to keep or raises ConfigError.
Check = Callable[[str, Any], Any]


class Field(NamedTuple):
    default: Any
    check: Check


def refuse(name: str, value: Any, allowed: str) -> ConfigError:
    """Build the error for a value that `name` cannot have; long values are cut."""
    shown = repr(value)
    return ConfigError(f"{name} is {shown if len(shown) <= 80 else shown[:77] + '...'}; allowed: {allowed}")


def _integer(low: int, high: int) -> Check:
    def check(name: str, value: Any) -> Any:
        if type(value) is not int or not low <= value <= high:
            raise refuse(name, value, f"an integer from {low} to {high}")
        return value

    return check


def _number(low: float, high: float) -> Check:
    def check(name: str, value: Any) -> Any:
        if type(value) not in (int, float) or not low <= value <= high:  # NaN fails the comparison
            raise refuse(name, value, f"a number from {low:g} to {high:g}")
        return value

    return check


def _optional(inner: Check) -> Check:
    def check(name: str, value: Any) -> Any:
        return None if value is None else inner(name, value)

    return check


def _boolean(name: str, value: Any) -> Any:
    if type(value) is not bool:
        raise refuse(name, value, "true or false")
    return value


def _text(name: str, value: Any) -> Any:
    if type(value) is not str or len(value) > 4096:
        raise refuse(name, value, "a string of at most 4096 characters")
    return value


def _choice(options: tuple[str, ...]) -> Check:
    def check(name: str, value: Any) -> Any:
        if type(value) is not str or value not in options:
            raise refuse(name, value, ", ".join(options))
        return value

    return check


# Ids past vocab_size are legal: they never occur. Files in use say -1 for "none".
_TOKEN_ID = _integer(-1, _INT32)


def _eos(name: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        if not 1 <= len(value) <= 4096:
            raise refuse(name, value, "a token id or a list of 1 to 4096 of them")
        return [_TOKEN_ID(f"{name}[{i}]", item) for i, item in enumerate(value)]
    return _TOKEN_ID(name, value)


def _dtype(name: str, value: Any) -> Any:
    # A torch.dtype prints as torch.float16; only its name is kept, so that torch is not needed here.
    text = value if type(value) is str else str(value) if type(value).__name__ == "dtype" else None
    if text is None or text.removeprefix("torch.") not in DTYPES:
        raise refuse(name, value, ", ".join(DTYPES))
    return text.removeprefix("torch.")


def _texts(name: str, value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or len(value) > 64:
        raise refuse(name, value, "a list of at most 64 strings")
    return [_text(f"{name}[{i}]", item) for i, item in enumerate(value)]


def _id2label(name: str, value: Any) -> Any:
    if not isinstance(value, dict) or len(value) > MAX_LABELS:
        raise refuse(name, value, f"a mapping from label number to label with at most {MAX_LABELS} entries")
    labels: dict[int, Any] = {}
    for key, label in value.items():
        number = int(key) if type(key) is str and key.isascii() and key.isdigit() and len(key) < 10 else key
        if type(number) is not int or not 0 <= number <= _INT32 or number in labels:
            raise refuse(f"a key of {name}", key, "whole numbers, each once")
        if type(label) not in (str, int, float, bool):
            raise refuse(f"{name}[{number}]", label, "a label that is a string or a number")
        labels[number] = label
    return labels


def _label2id(name: str, value: Any) -> Any:
    if not isinstance(value, dict) or len(value) > MAX_LABELS:
        raise refuse(name, value, f"a mapping from label to label number with at most {MAX_LABELS} entries")
    for label, number in value.items():
        is_number = type(number) is int or (type(number) is str and number.isascii() and number.isdigit())
        if not is_number:
            raise refuse(f"{name}[{label!r}]", number, "a whole number")
    return dict(value)


def _pruned_heads(name: str, value: Any) -> Any:
    if not isinstance(value, dict) or len(value) > 1024:
        raise refuse(name, value, "a mapping from layer to a list of heads")
    pruned: dict[int, list[int]] = {}
    for key, heads in value.items():
        layer = int(key) if type(key) is str and key.isascii() and key.isdigit() and len(key) < 10 else key
        if type(layer) is not int or layer in pruned or not isinstance(heads, (list, tuple, set)):
            raise refuse(f"{name}[{key!r}]", heads, "a list of heads for each layer, counted from 0")
        if len(heads) > 2**16 or not all(type(head) is int for head in heads):
            raise refuse(f"{name}[{key!r}]", heads, "a list of heads, counted from 0")
        pruned[layer] = sorted(set(heads))
    return pruned


_dropout = _number(0.0, 1.0)

# Transformers' fields, in its order. The first block is common to all its models, the second is GPT-2's.
FIELDS: dict[str, Field] = {
    "transformers_version": Field(None, _optional(_text)),
    "architectures": Field(None, _optional(_texts)),
    "output_hidden_states": Field(False, _optional(_boolean)),
    "return_dict": Field(True, _optional(_boolean)),
    "dtype": Field(None, _optional(_dtype)),
    "chunk_size_feed_forward": Field(0, _integer(0, _INT32)),
    "is_encoder_decoder": Field(False, _boolean),
    "id2label": Field(None, _optional(_id2label)),
    "label2id": Field(None, _optional(_label2id)),
    "problem_type": Field(None, _optional(_choice(PROBLEM_TYPES))),
    "vocab_size": Field(50257, _integer(1, 2**20)),
    "n_positions": Field(1024, _integer(1, 2**20)),
    "n_embd": Field(768, _integer(1, 2**16)),
    "n_layer": Field(12, _integer(1, 1024)),
    "n_head": Field(12, _integer(1, 2**16)),
    "n_inner": Field(None, _optional(_integer(1, 2**20))),
    "activation_function": Field("gelu_new", _choice(ACTIVATIONS)),
    "resid_pdrop": Field(0.1, _dropout),
    "embd_pdrop": Field(0.1, _dropout),
    "attn_pdrop": Field(0.1, _dropout),
    "layer_norm_epsilon": Field(1e-5, _number(0.0, 1.0)),
    "initializer_range": Field(0.02, _number(0.0, 1e3)),
    "summary_type": Field("cls_index", _choice(SUMMARY_TYPES)),
    "summary_use_proj": Field(True, _boolean),
    "summary_activation": Field(None, _optional(_choice(ACTIVATIONS))),
    "summary_proj_to_labels": Field(True, _boolean),
    "summary_first_dropout": Field(0.1, _dropout),
    "scale_attn_weights": Field(True, _boolean),
    "use_cache": Field(True, _boolean),
    "bos_token_id": Field(50256, _optional(_TOKEN_ID)),
    "eos_token_id": Field(50256, _optional(_eos)),
    "pad_token_id": Field(None, _optional(_TOKEN_ID)),
    "scale_attn_by_inverse_layer_idx": Field(False, _boolean),
    "reorder_and_upcast_attn": Field(False, _boolean),
    "add_cross_attention": Field(False, _boolean),
    "tie_word_embeddings": Field(True, _boolean),
}

# Not fields in Transformers either, but the models read them when they are there.
OPTIONAL_CHECKS: dict[str, Check] = {
    "classifier_dropout": _optional(_dropout),
    "hidden_dropout": _optional(_dropout),
    "summary_last_dropout": _optional(_dropout),
    "tie_last_hidden_states": _optional(_boolean),
    "pruned_heads": _optional(_pruned_heads),
}

# Settings of generation() that old files carry. They belong in generation_config.json and are dropped here.
GENERATION_KEYS = frozenset({
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "temperature", "top_k",
    "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "epsilon_cutoff",
    "eta_cutoff", "encoder_repetition_penalty", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind", "num_beam_groups",
    "diversity_penalty",
})  # fmt: skip

# Settings with which files have named code, a place to fetch it from or another file to read. Never honoured.
CODE_KEYS = frozenset({
    "auto_map", "trust_remote_code", "code_revision", "custom_pipelines", "custom_generate", "kernels",
    "kernel", "kernel_config", "use_kernels", "experts_implementation", "configuration_files",
    "transformers_weights", "distributed_config", "base_model_tp_plan", "base_model_pp_plan",
    "base_model_fsdp_plan", "base_model_ep_plan",
})  # fmt: skip


def is_code_key(key: str) -> bool:
    """Tell whether a key found in a file names code or is private to some library."""
    return key.startswith("_") or key in CODE_KEYS


def count_parameters(vocab_size: int, n_positions: int, n_embd: int, n_layer: int, n_inner: int) -> int:
    """Count the parameters of the trunk, as an exact integer however large."""
    C, inner = n_embd, n_inner
    block = 4 * C + (3 * C * C + 3 * C) + (C * C + C) + (C * inner + inner) + (inner * C + C)
    return (vocab_size + n_positions) * C + n_layer * block + 2 * C
