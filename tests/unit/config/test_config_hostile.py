"""No config.json, however hostile, does more than raise ConfigError; impossible shapes cost no memory."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2kit.config import GPT2Config
from gpt2kit.config.fields import FIELDS
from gpt2kit.config.json_file import parse_json_object
from gpt2kit.errors import ConfigError

NOT_INTEGERS: list[Any] = [None, True, "12", 12.0, -1, 0, 2**31, 2**64, 1e999, [], {}]

# Whole files.
TEXTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not JSON"),
    "not_json": (b"n_embd = 768", "not JSON"),
    "not_utf8": (b'{"a": "\xff\xfe"}', "not JSON"),
    "utf16": ('{"n_embd": 768}'.encode("utf-16"), "not JSON"),
    "byte_order_mark": (b'\xef\xbb\xbf{"n_embd": 768}', "not JSON"),
    "array": (b"[]", "a JSON list"),
    "text": (b'"gpt2"', "a JSON str"),
    "null": (b"null", "a JSON NoneType"),
    "nan": (b"NaN", "a JSON float"),
    "cut": (b'{"n_embd": 768', "not JSON"),
    "two_objects": (b"{}{}", "not JSON"),
    "key_twice": (b'{"n_embd": 768, "n_embd": 65536}', "key 'n_embd' twice"),
    "key_twice_inside": (b'{"x": {"a": 1, "a": 2}}', "key 'a' twice"),
    "deep_arrays": (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper"),
    "deep_objects": (b'{"x": ' * 100_000 + b"1" + b"}" * 100_000, "nested deeper"),
    "depth_33": (b'{"x": ' + b"[" * 32 + b"]" * 32 + b"}", "nested deeper than 32"),
    "digits_5000": (b'{"n_embd": ' + b"9" * 5000 + b"}", "not JSON"),
    "too_large": (b'{"x": "' + b"a" * (17 * 2**20) + b'"}', "larger than"),
}

# Settings in an otherwise good file.
SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    **{f"{name}_{i}": ({name: value}, f"{name} is")
       for name in ("n_embd", "n_layer", "n_head", "n_positions", "vocab_size")
       for i, value in enumerate(NOT_INTEGERS)},
    "n_embd_large": ({"n_embd": 65537}, "from 1 to 65536"),
    "n_layer_large": ({"n_layer": 1025}, "from 1 to 1024"),
    "vocab_large": ({"vocab_size": 2**20 + 1}, "vocab_size is"),
    "positions_large": ({"n_positions": 2**20 + 1}, "n_positions is"),
    "inner_zero": ({"n_inner": 0}, "n_inner is"),
    "inner_text": ({"n_inner": "4"}, "n_inner is"),
    "product": ({"n_embd": 65536, "n_head": 1, "n_layer": 1024}, "parameters; the limit"),
    "product_of_tables": ({"n_embd": 65536, "n_head": 1, "n_layer": 1, "vocab_size": 2**20}, "the limit"),
    "not_divisible": ({"n_embd": 770}, "multiple of n_head"),
    "more_heads_than_channels": ({"n_head": 1536}, "multiple of n_head"),
    "alias_differs": ({"n_embd": 768, "hidden_size": 64}, "two names of one setting"),
    "dropout_text": ({"resid_pdrop": "0.1"}, "resid_pdrop is"),
    "dropout_large": ({"attn_pdrop": 1.5}, "attn_pdrop is"),
    "dropout_negative": ({"embd_pdrop": -0.1}, "embd_pdrop is"),
    "dropout_nan": ({"resid_pdrop": float("nan")}, "resid_pdrop is nan"),
    "dropout_tagged": ({"resid_pdrop": {"__float__": "Infinity"}}, "resid_pdrop is inf"),
    "classifier_dropout": ({"classifier_dropout": 2}, "classifier_dropout is"),
    "epsilon_negative": ({"layer_norm_epsilon": -1e-5}, "layer_norm_epsilon is"),
    "epsilon_infinite": ({"layer_norm_epsilon": float("inf")}, "layer_norm_epsilon is inf"),
    "range_nan": ({"initializer_range": float("nan")}, "initializer_range is"),
    "activation_unknown": ({"activation_function": "__import__('os').abort()"}, "activation_function is"),
    "activation_list": ({"activation_function": ["gelu"]}, "activation_function is"),
    "summary_type": ({"summary_type": "all"}, "summary_type is"),
    "problem_type": ({"problem_type": "unknown"}, "problem_type is"),
    "problem_of_one_label": ({"problem_type": "single_label_classification", "num_labels": 1}, "num_labels"),
    "flag_number": ({"scale_attn_weights": 1}, "scale_attn_weights is 1"),
    "flag_text": ({"tie_word_embeddings": "false"}, "tie_word_embeddings is"),
    "flag_null": ({"use_cache": None}, "use_cache is None"),
    "eos_text": ({"eos_token_id": "50256"}, "eos_token_id is"),
    "eos_mixed": ({"eos_token_id": [1, "2"]}, r"eos_token_id\[1\] is"),
    "eos_empty": ({"eos_token_id": []}, "eos_token_id is"),
    "eos_very_many": ({"eos_token_id": [0] * 5000}, "eos_token_id is"),
    "eos_past_int32": ({"eos_token_id": 2**31}, "eos_token_id is"),
    "pad_negative": ({"pad_token_id": -2}, "pad_token_id is"),
    "bos_true": ({"bos_token_id": True}, "bos_token_id is"),
    "num_labels_bomb": ({"num_labels": 10**9}, "num_labels is"),
    "num_labels_text": ({"num_labels": "3"}, "num_labels is"),
    "id2label_list": ({"id2label": ["a", "b"]}, "id2label is"),
    "id2label_words": ({"id2label": {"one": "a"}}, "key of id2label"),
    "id2label_negative": ({"id2label": {"-1": "a"}}, "key of id2label"),
    "id2label_same_number": ({"id2label": {"1": "a", "01": "b"}}, "key of id2label"),
    "id2label_nested": ({"id2label": {"0": {"a": "b"}}}, r"id2label\[0\] is"),
    "label2id_words": ({"label2id": {"a": "b"}}, "label2id"),
    "dtype_function": ({"dtype": "load"}, "dtype is 'load'"),
    "torch_dtype_number": ({"torch_dtype": 16}, "dtype is 16"),
    "architectures_text": ({"architectures": "GPT2LMHeadModel"}, "architectures is"),
    "model_type_other": ({"model_type": "bert"}, "model_type is 'bert'"),
    "model_type_list": ({"model_type": ["gpt2"]}, "model_type is"),
    "per_layer": ({"per_layer_config": {"0": {"n_inner": 7}}}, "per_layer_config is not supported"),
    "quantised": ({"quantization_config": {"quant_method": "evil"}}, "quant_method is 'evil'"),
    "method": ({"to_dict": "x"}, "'to_dict' is the name of a method"),
    "constant": ({"attribute_map": {"n_embd": "n_head"}}, "'attribute_map' is the name"),
    "property": ({"use_return_dict": False}, "computed"),
    "attentions": ({"output_attentions": "yes"}, "output_attentions is"),
    "pruned_list": ({"pruned_heads": [[0, 1]]}, "pruned_heads is"),
    "pruned_words": ({"pruned_heads": {"first": [0]}}, "pruned_heads"),
    "pruned_twice": ({"pruned_heads": {"1": [0], "01": [1]}}, "pruned_heads"),
    "pruned_number": ({"pruned_heads": {"0": 3}}, "a list of heads"),
    "pruned_text": ({"pruned_heads": {"0": ["3"]}}, "a list of heads"),
    "pruned_layer": ({"pruned_heads": {"12": [0]}}, "layers 0 to 11, heads 0 to 11"),
    "pruned_head": ({"pruned_heads": {"0": [0, 12]}}, "layers 0 to 11, heads 0 to 11"),
    "pruned_all": ({"pruned_heads": {"0": list(range(12))}}, "leave at least one"),
    "pruned_bomb": ({"pruned_heads": {"0": list(range(10**5))}}, "a list of heads"),
    "pruned_many": ({"pruned_heads": {"0": list(range(60000))}}, "layers 0 to 11, heads 0 to 11"),
    "name": ({"name_or_path": {"a": 1}}, "name_or_path is"),
    "version": ({"transformers_version": 5}, "transformers_version is"),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_file_that_is_no_configuration_is_refused(name: str, tmp_path: Path) -> None:
    content, says = TEXTS[name]
    (tmp_path / "config.json").write_bytes(content)
    start = time.process_time()
    with pytest.raises(ConfigError, match=says) as caught:
        GPT2Config.from_pretrained(tmp_path)
    assert time.process_time() - start < 0.5
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize("name", SETTINGS)
def test_setting_that_cannot_be_is_refused_with_its_name(name: str, tmp_path: Path) -> None:
    changes, says = SETTINGS[name]
    (tmp_path / "config.json").write_text(json.dumps(changes))
    with pytest.raises(ConfigError, match=says) as caught:
        GPT2Config.from_pretrained(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)
    with pytest.raises(ConfigError):
        GPT2Config(**{**json.loads(json.dumps(changes)), "resid_pdrop": changes.get("resid_pdrop", 0.1)})


MEMORY_CHECK = """
import json, resource, sys
from pathlib import Path
import gpt2kit.config
from gpt2kit.errors import ConfigError
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 100 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        gpt2kit.config.GPT2Config.from_json_file(path)
    except ConfigError:
        continue
    sys.exit(f"{path.name} was accepted")
"""


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="needs Linux's /proc to know the size in use"
)
def test_hostile_files_take_less_than_100_mb(tmp_path: Path) -> None:
    for name, (content, _) in TEXTS.items():
        (tmp_path / name).write_bytes(content)
    for name, (changes, _) in SETTINGS.items():
        (tmp_path / name).write_text(json.dumps(changes))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_CHECK, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [*FIELDS, "hidden_size", "num_labels", "output_attentions", "torch_dtype", "auto_map"]
)


OBJECTS = st.dictionaries(NAMES | st.text(max_size=8), JSON, max_size=5)


def check_object(content: dict[str, Any]) -> None:
    data = json.dumps(content).encode()
    try:
        config = GPT2Config.from_dict(parse_json_object(data, "config.json"))
    except ConfigError:
        return
    config.validate()
    text = config.to_json_string()
    assert GPT2Config.from_dict(parse_json_object(text.encode(), "config.json")).to_json_string() == text


@settings(max_examples=200, deadline=None)
@given(OBJECTS)
def test_any_json_object_is_a_configuration_or_an_error(content: dict[str, Any]) -> None:
    check_object(content)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None)
@given(OBJECTS)
def test_any_of_many_json_objects_is_a_configuration_or_an_error(content: dict[str, Any]) -> None:
    check_object(content)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_an_error(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_json_object(data, "x"), dict)
