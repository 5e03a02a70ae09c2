"""config.json files are those of Transformers, byte for byte, in both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2kit.config import GPT2Config
from gpt2kit.config.fields import ACTIVATIONS, GENERATION_KEYS

transformers = pytest.importorskip("transformers")

EXAMPLES: list[dict[str, Any]] = [
    {},
    {"n_layer": 3, "hidden_size": 96, "num_attention_heads": 4, "max_position_embeddings": 7},
    {"n_ctx": 1024, "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}},
    {"torch_dtype": "float16", "architectures": ["GPT2LMHeadModel"]},
    {"dtype": "bfloat16", "name_or_path": "somewhere"},
    {"num_labels": 12, "problem_type": "regression"},
    {"id2label": {"0": "no", "1": "yes", "2": "maybe"}, "label2id": {"no": 0, "yes": 1, "maybe": 2}},
    {"id2label": {"0": "a", "1": "b"}},
    {"num_labels": 1},
    {"eos_token_id": [50256, 198], "bos_token_id": None, "pad_token_id": 0},
    {"output_attentions": True, "output_hidden_states": True, "return_dict": False},
    {"do_sample": True, "max_length": 9, "top_k": 3, "use_cache": False},
    {"ratio": float("inf"), "other": [float("-inf"), {"nan": float("nan")}], "tuple": (1, (2, 3))},
    {"tie_word_embeddings": False, "tie_last_hidden_states": True, "is_encoder_decoder": True},
    {"text": "h\u00e9llo \U0001f600 \x07", "chunk_size_feed_forward": 3},
]


def both_ways(given: dict[str, Any], folder: Path) -> None:
    theirs, ours = transformers.GPT2Config(**given), GPT2Config(**given)
    theirs.save_pretrained(folder / "theirs")
    ours.save_pretrained(folder / "ours")
    expected = (folder / "theirs" / "config.json").read_bytes()
    assert (folder / "ours" / "config.json").read_bytes() == expected
    GPT2Config.from_pretrained(folder / "theirs").save_pretrained(folder / "again")
    assert (folder / "again" / "config.json").read_bytes() == expected
    transformers.GPT2Config.from_pretrained(folder / "ours").save_pretrained(folder / "back")
    assert (folder / "back" / "config.json").read_bytes() == expected


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: ",".join(example) or "defaults")
def test_files_and_dicts_are_the_same(example: dict[str, Any], tmp_path: Path) -> None:
    both_ways(example, tmp_path)
    theirs, ours = transformers.GPT2Config(**example), GPT2Config(**example)
    assert sorted(ours.to_dict()) == sorted(theirs.to_dict())
    assert sorted(ours.to_diff_dict()) == sorted(theirs.to_diff_dict())
    assert str(ours.to_json_string(use_diff=False)) == theirs.to_json_string(use_diff=False)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "n_head": st.sampled_from([1, 2, 3, 4, 6]),
            "n_layer": st.integers(1, 5),
            "n_inner": st.none() | st.integers(1, 9),
            "vocab_size": st.integers(1, 99),
            "activation_function": st.sampled_from(ACTIVATIONS),
            "resid_pdrop": st.floats(0, 1),
            "layer_norm_epsilon": st.floats(1e-12, 1e-3),
            "scale_attn_weights": st.booleans(),
            "scale_attn_by_inverse_layer_idx": st.booleans(),
            "reorder_and_upcast_attn": st.booleans(),
            "add_cross_attention": st.booleans(),
            "num_labels": st.integers(1, 12),
            "summary_type": st.sampled_from(["last", "first", "mean", "cls_index"]),
            "summary_activation": st.none() | st.just("tanh"),
            "extra": st.text() | st.integers() | st.lists(st.floats(allow_nan=False)),
        },
    )
)
def test_random_settings_are_written_the_same(tmp_path: Path, given: dict[str, Any]) -> None:
    both_ways(given, tmp_path)


def test_generation_settings_are_those_that_transformers_pops() -> None:
    theirs = set(transformers.GenerationConfig._get_default_generation_params())
    assert theirs - {"use_cache"} <= GENERATION_KEYS


def test_activations_are_those_of_transformers() -> None:
    from transformers.activations import ACT2FN

    assert sorted(ACT2FN) == sorted(ACTIVATIONS)


def test_torch_dtype_object_is_accepted() -> None:
    torch = pytest.importorskip("torch")
    assert GPT2Config(dtype=torch.bfloat16).dtype == "bfloat16"
