"""What is written is read back; what is read is a view; what cannot be written is refused before writing."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2kit.checkpoint import from_float32, open_checkpoint, save_checkpoint, to_float32
from gpt2kit.checkpoint.names import canonical_name, file_name, is_conv1d, trunk_shapes
from gpt2kit.config import GPT2Config
from gpt2kit.errors import CheckpointError, ConfigError

UNTIED = GPT2Config(**{**tiny.CONFIG.to_dict(), "tie_word_embeddings": False})


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    heads=st.integers(1, 3),
    head_size=st.integers(1, 5),
    layers=st.integers(1, 3),
    inner=st.none() | st.integers(1, 9),
    cross=st.booleans(),
    shard=st.integers(1, 5000),
    dtype=st.sampled_from(["F32", "F16", "BF16"]),
    seed=st.integers(0, 99),
)
def test_any_shape_any_dtype_any_shards_come_back(
    tmp_path: Path,
    heads: int,
    head_size: int,
    layers: int,
    inner: int | None,
    cross: bool,
    shard: int,
    dtype: str,
    seed: int,
) -> None:
    config = GPT2Config(
        n_head=heads, n_embd=heads * head_size, n_layer=layers, n_inner=inner, vocab_size=7, n_positions=3,
        add_cross_attention=cross,
    )  # fmt: skip
    weights = tiny.tensors(config, seed)
    save_checkpoint(tmp_path / "m", weights, config, max_shard_size=shard, dtypes=dtype)
    checkpoint = open_checkpoint(tmp_path / "m")
    assert checkpoint.names() == sorted(weights)
    for name, array in weights.items():
        assert np.array_equal(checkpoint.tensor(name), from_float32(array, dtype))
        assert checkpoint.info(name).dtype == dtype
        assert checkpoint.info(name).shape == array.shape
        assert np.array_equal(checkpoint.float32(name), to_float32(from_float32(array, dtype), dtype))
        assert checkpoint.tensor(name).flags.aligned
    assert checkpoint.config.n_inner == inner
    assert checkpoint.file_bytes == sum(f.stat().st_size for f in (tmp_path / "m").glob("*.safetensors"))


def test_views_are_read_only_contiguous_and_outlive_the_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m", tiny.tensors(), tiny.CONFIG)
    checkpoint = open_checkpoint(tmp_path / "m")
    view, again = checkpoint.tensor("h.0.mlp.c_fc.weight"), checkpoint.float32("h.0.mlp.c_fc.weight")
    assert view.ctypes.data == again.ctypes.data  # float32 is not copied
    assert view.flags.c_contiguous
    assert not view.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 1
    del checkpoint, again
    gc.collect()
    assert np.array_equal(view, tiny.tensors()["h.0.mlp.c_fc.weight"])


def test_mapped_file_may_be_replaced_and_copied_file_may_be_truncated(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m", tiny.tensors(seed=0), tiny.CONFIG)
    mapped = open_checkpoint(tmp_path / "m")
    copied = open_checkpoint(tmp_path / "m", mmap=False)
    save_checkpoint(tmp_path / "m", tiny.tensors(seed=1), tiny.CONFIG)
    assert np.array_equal(mapped.tensor("wte.weight"), tiny.tensors(seed=0)["wte.weight"])
    assert np.array_equal(
        open_checkpoint(tmp_path / "m").tensor("wte.weight"), tiny.tensors(seed=1)["wte.weight"]
    )
    os.truncate(tmp_path / "m" / "model.safetensors", 0)
    assert np.array_equal(copied.tensor("wte.weight"), tiny.tensors(seed=0)["wte.weight"])
    assert not copied.tensor("wte.weight").flags.writeable


def test_names_with_and_without_prefix_and_stored_masks(tmp_path: Path) -> None:
    weights = tiny.tensors()
    stored = {f"transformer.{name}": array for name, array in weights.items()}
    stored["transformer.h.0.attn.bias"] = np.ones((1, 1, 6, 6), np.float32)
    stored["h.0.attn.masked_bias"] = np.full((), -1e4, np.float32)
    stored["transformer.h.0.crossattention.bias"] = np.ones((1, 1, 6, 6), np.float32)
    folder = tiny.write_folder(tmp_path, tiny.pack(*tiny.entries(stored)))
    checkpoint = open_checkpoint(folder)
    assert checkpoint.names() == sorted(weights)
    assert np.array_equal(checkpoint.tensor("h.0.attn.c_attn.bias"), weights["h.0.attn.c_attn.bias"])


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("transformer.h.10.attn.c_attn.bias", "h.10.attn.c_attn.bias"),
        ("h.0.attn.bias", None),
        ("transformer.h.0.attn.masked_bias", None),
        ("h.3.crossattention.bias", None),
        ("h.3.crossattention.c_attn.bias", "h.3.crossattention.c_attn.bias"),
        ("lm_head.weight", "lm_head.weight"),
        ("transformer.transformer.wte.weight", "transformer.wte.weight"),
    ],
)
def test_canonical_name(name: str, canonical: str | None) -> None:
    assert canonical_name(name) == canonical


def test_every_name_of_the_table_survives_the_way_to_a_file() -> None:
    for name in (*trunk_shapes(tiny.CONFIG), "lm_head.weight", "score.weight", "qa_outputs.bias"):
        assert canonical_name(file_name(name)) == name
    assert [n for n in trunk_shapes(tiny.CONFIG) if is_conv1d(n)] == [
        "h.0.attn.c_attn.weight",
        "h.0.attn.c_proj.weight",
        "h.0.mlp.c_fc.weight",
        "h.0.mlp.c_proj.weight",
    ]


def test_tied_head_is_dropped_when_equal_and_kept_when_not(tmp_path: Path) -> None:
    weights = tiny.tensors()
    equal = {**weights, "lm_head.weight": weights["wte.weight"].copy()}
    other = {**weights, "lm_head.weight": weights["wte.weight"] + 1}
    assert "lm_head.weight" not in open_checkpoint(
        tiny.write_folder(tmp_path / "equal", tiny.pack(*tiny.entries(equal)))
    )
    assert "lm_head.weight" in open_checkpoint(
        tiny.write_folder(tmp_path / "other", tiny.pack(*tiny.entries(other)))
    )
    assert "lm_head.weight" in open_checkpoint(
        tiny.write_folder(tmp_path / "untied", tiny.pack(*tiny.entries(equal)), UNTIED)
    )


def test_head_stands_in_for_a_tied_embedding_that_was_not_stored(tmp_path: Path) -> None:
    weights = tiny.tensors()
    wte = weights.pop("wte.weight")
    checkpoint = open_checkpoint(
        tiny.write_folder(tmp_path, tiny.pack(*tiny.entries({**weights, "lm_head.weight": wte})))
    )
    assert np.array_equal(checkpoint.tensor("wte.weight"), wte)
    assert "lm_head.weight" not in checkpoint


def test_missing_trunk_is_accepted_on_request_and_listed(tmp_path: Path) -> None:
    weights = tiny.tensors()
    del weights["h.0.ln_1.bias"]
    folder = tiny.write_folder(tmp_path, tiny.pack(*tiny.entries(weights)))
    assert open_checkpoint(folder, allow_missing=True).missing == ("h.0.ln_1.bias",)


def test_heads_variant_subfolder_and_own_configuration(tmp_path: Path) -> None:
    weights = {**tiny.tensors(), "score.weight": np.zeros((5, 4), np.float32)}
    save_checkpoint(tmp_path / "a" / "b", weights, tiny.CONFIG)
    (tmp_path / "a" / "b" / "model.safetensors").rename(tmp_path / "a" / "b" / "model.fp16.safetensors")
    checkpoint = open_checkpoint(tmp_path / "a", subfolder="b", variant="fp16")
    assert checkpoint.info("score.weight").shape == (5, 4)
    assert checkpoint.config.architectures == ["GPT2ForSequenceClassification"]
    os.unlink(tmp_path / "a" / "b" / "config.json")
    assert open_checkpoint(tmp_path / "a" / "b", variant="fp16", config=tiny.CONFIG).config is tiny.CONFIG
    with pytest.raises(ConfigError, match="does not exist"):
        open_checkpoint(tmp_path / "a" / "b", variant="fp16")


def test_unknown_name_is_an_error(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m", tiny.tensors(), tiny.CONFIG)
    with pytest.raises(CheckpointError, match=r"no tensor 'transformer\.wte\.weight'"):
        open_checkpoint(tmp_path / "m").tensor("transformer.wte.weight")


@pytest.mark.parametrize(
    ("changes", "options", "config", "says"),
    [
        ({"wte.weight": np.zeros((4, 11), np.float32)}, {}, tiny.CONFIG, "'wte.weight' has shape"),
        ({"extra.weight": np.zeros(1, np.float32)}, {}, tiny.CONFIG, "'extra.weight' is no weight"),
        ({"h.0.attn.bias": np.zeros(1, np.float32)}, {}, tiny.CONFIG, "'h.0.attn.bias' is no weight"),
        ({"transformer.ln_f.bias": np.zeros(4, np.float32)}, {}, tiny.CONFIG, "given twice"),
        ({"ln_f.bias": np.zeros(4)}, {}, tiny.CONFIG, "'ln_f.bias' is float64"),
        ({"ln_f.bias": np.zeros(4, np.uint16)}, {}, tiny.CONFIG, "'ln_f.bias' is uint16"),
        ({"ln_f.bias": np.zeros(4, np.float16)}, {"dtypes": "BF16"}, tiny.CONFIG, "'ln_f.bias' is float16"),
        ({}, {"dtypes": "F64"}, tiny.CONFIG, "is 'F64'"),
        ({}, {"max_shard_size": "5 parsecs"}, tiny.CONFIG, "max_shard_size"),
        ({}, {"max_shard_size": 0}, tiny.CONFIG, "max_shard_size"),
        ({}, {"metadata": {"step": 3}}, tiny.CONFIG, "metadata"),
        ({"lm_head.weight": np.zeros((11, 4), np.float32)}, {}, tiny.CONFIG, "differs from 'wte.weight'"),
        ({}, {}, UNTIED, "'lm_head.weight' is missing"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is(
    changes: dict, options: dict, config: GPT2Config, says: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=says):
        save_checkpoint(tmp_path / "m", {**tiny.tensors(), **changes}, config, **options)
    assert list(tmp_path.iterdir()) == []


def test_bits_of_bfloat16_are_written_as_they_are(tmp_path: Path) -> None:
    bits = np.arange(44, dtype=np.uint16).reshape(11, 4)
    weights = {**tiny.tensors(), "wte.weight": bits}
    save_checkpoint(tmp_path / "m", weights, tiny.CONFIG, dtypes={"wte.weight": "BF16"})
    checkpoint = open_checkpoint(tmp_path / "m")
    assert checkpoint.info("wte.weight").dtype == "BF16"
    assert np.array_equal(checkpoint.tensor("wte.weight"), bits)
    assert checkpoint.info("ln_f.bias").dtype == "F32"


def test_writing_leaves_the_given_configuration_alone_and_other_files_too(tmp_path: Path) -> None:
    before = tiny.CONFIG.to_json_string()
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "model-00001-of-00009.safetensors").write_bytes(b"old")
    save_checkpoint(tmp_path, tiny.tensors(), tiny.CONFIG, metadata={"note": "x"})
    assert tiny.CONFIG.to_json_string() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors", "vocab.json"]
    assert open_checkpoint(tmp_path).metadata == {"format": "pt", "note": "x"}


def test_configuration_has_the_keys_that_converters_ask_for(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m", tiny.tensors(), tiny.CONFIG, dtypes="F16")
    written = json.loads((tmp_path / "m" / "config.json").read_text())
    assert (written["n_ctx"], written["n_positions"], written["dtype"]) == (6, 6, "float16")
    assert (written["architectures"], written["model_type"]) == (["GPT2LMHeadModel"], "gpt2")
    assert {"n_embd", "n_head", "n_layer", "layer_norm_epsilon"} <= set(written)


def test_failure_while_writing_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "m", tiny.tensors(seed=0), tiny.CONFIG)
    calls = []

    def full_disk(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    for folder in ("m", "new"):
        calls.clear()
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(tmp_path / folder, tiny.tensors(seed=1), tiny.CONFIG, max_shard_size=300)
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["config.json", "m", "model.safetensors"]
    assert np.array_equal(
        open_checkpoint(tmp_path / "m").tensor("wte.weight"), tiny.tensors(seed=0)["wte.weight"]
    )


INDEX = "model.safetensors.index.json"


def sharded(folder: Path) -> dict:
    save_checkpoint(folder, tiny.tensors(), tiny.CONFIG, max_shard_size=400)
    return json.loads((folder / INDEX).read_text())


def mapped_to(shard: object) -> Callable[[dict], object]:
    return lambda index: index["weight_map"].update({"transformer.wte.weight": shard})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda index: index.pop("weight_map"), "has no weight_map"),
        (lambda index: index.update(weight_map=[1]), "has no weight_map"),
        (lambda index: index.update(weight_map={}), "has no weight_map"),
        (mapped_to(3), r"'transformer\.wte\.weight' is mapped to '3'"),
        (mapped_to("../x.safetensors"), r"mapped to '\.\./x\.safetensors'"),
        (mapped_to("/etc/x.safetensors"), "mapped to '/etc"),
        (mapped_to("a\\b.safetensors"), "mapped to"),
        (mapped_to(".safetensors"), "mapped to"),
        (mapped_to("config.json"), r"mapped to 'config\.json'"),
        (mapped_to("gone.safetensors"), r"gone\.safetensors cannot be opened"),
        (
            lambda index: index["weight_map"].update(nothing=min(index["weight_map"].values())),
            "tensor 'nothing' is missing, the index says it is here",
        ),
        (
            lambda index: index["weight_map"].pop("transformer.wte.weight"),
            r"tensor 'transformer\.wte\.weight' is here, but the index says no shard",
        ),
    ],
)
def test_index_that_does_not_fit_is_refused(
    change: Callable[[dict], object], says: str, tmp_path: Path
) -> None:
    index = sharded(tmp_path)
    change(index)
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=says):
        open_checkpoint(tmp_path)


def test_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    first = index["weight_map"]["transformer.wte.weight"]
    (tmp_path / "copy.safetensors").write_bytes((tmp_path / first).read_bytes())
    index["weight_map"]["transformer.wpe.weight.copy"] = "copy.safetensors"
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="is here, but the index says"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"weight_map": {"a": NaN}}', b"[" * 100_000])
def test_index_that_is_no_json_object_is_refused(content: bytes, tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / INDEX).write_bytes(content)
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path)


def test_rounding_to_bfloat16_takes_the_nearest_even() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, 3.4028235e38, np.inf, -np.inf, -0.0, 1e-45], np.float32)
    bits = [0x3F80, 0x3F80, 0x3F82, 0x7F80, 0x7F80, 0xFF80, 0x8000, 0x0000]
    assert from_float32(values, "BF16").tolist() == bits
    assert np.isnan(to_float32(from_float32(np.array([np.nan], np.float32), "BF16"), "BF16")).all()
    with pytest.raises(CheckpointError, match="allowed: F32, F16, BF16"):
        from_float32(values, "F8")
