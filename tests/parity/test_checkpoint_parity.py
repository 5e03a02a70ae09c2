"""Folders travel both ways between this package, the safetensors library, torch and Transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpt2kit.checkpoint import from_float32, open_checkpoint, save_checkpoint, to_float32
from gpt2kit.config import GPT2Config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_numpy = pytest.importorskip("safetensors.numpy")

SHAPE = {
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 8,
    "vocab_size": 19,
    "n_positions": 8,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
CLASSES = [
    "GPT2Model",
    "GPT2LMHeadModel",
    "GPT2DoubleHeadsModel",
    "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification",
    "GPT2ForQuestionAnswering",
]


def oracle(name: str = "GPT2LMHeadModel", **settings: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return getattr(transformers, name)(transformers.GPT2Config(**{**SHAPE, **settings})).eval()


def weights_of(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {n.removeprefix("transformer."): t.numpy() for n, t in model.state_dict().items()}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("options", [{}, {"max_shard_size": "2KB"}], ids=["whole", "shards"])
def test_folder_of_transformers_is_read(name: str, options: dict, tmp_path: Path) -> None:
    model = oracle(name, num_labels=3) if "Double" not in name else oracle(name)
    model.save_pretrained(tmp_path, **options)
    checkpoint = open_checkpoint(tmp_path)
    expected = weights_of(model)
    expected.pop("lm_head.weight", None)
    assert checkpoint.names() == sorted(expected)
    for tensor, array in expected.items():
        assert np.array_equal(checkpoint.tensor(tensor), array)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("options", [{}, {"max_shard_size": "2KB"}], ids=["whole", "shards"])
def test_folder_of_ours_is_read_by_transformers(name: str, options: dict, tmp_path: Path) -> None:
    model = oracle(name)
    config = GPT2Config(**model.config.to_dict())
    save_checkpoint(tmp_path, weights_of(model), config, **options)
    loaded, report = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    for tensor, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[tensor], value)
    if name != "GPT2Model":  # which is the only one whose name the tensors alone do not tell
        assert open_checkpoint(tmp_path).config.architectures == [name]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
def test_half_precision_both_ways(dtype: str, tied: bool, tmp_path: Path) -> None:
    model = oracle(tie_word_embeddings=tied).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "theirs")
    ours = open_checkpoint(tmp_path / "theirs")
    assert ours.config.dtype == dtype
    assert ("lm_head.weight" in ours) is not tied
    code = {"float16": "F16", "bfloat16": "BF16"}[dtype]
    save_checkpoint(tmp_path / "ours", {n: ours.float32(n) for n in ours.names()}, ours.config, dtypes=code)
    loaded = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours")
    assert loaded.dtype == getattr(torch, dtype)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_conversions_are_those_of_torch() -> None:
    bits = np.arange(2**16, dtype=np.uint32)
    # Every upper half with a few lower halves around the rounding points.
    values = np.concatenate([(bits << 16) | low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]).view(
        np.float32
    )
    for code, dtype in (("BF16", torch.bfloat16), ("F16", torch.float16)):
        ours = to_float32(from_float32(values, code), code)
        theirs = torch.from_numpy(values.copy()).to(dtype).float().numpy()
        assert np.array_equal(ours, theirs, equal_nan=True)
        numbers = ~np.isnan(ours)  # torch drops the sign of a NaN, we keep it
        assert np.array_equal(np.signbit(ours)[numbers], np.signbit(theirs)[numbers])


def test_the_safetensors_library_reads_what_we_write(tmp_path: Path) -> None:
    model = oracle()
    weights = {n: a for n, a in weights_of(model).items() if n != "lm_head.weight"}
    save_checkpoint(tmp_path, weights, GPT2Config(**SHAPE))
    read = safetensors_numpy.load_file(tmp_path / "model.safetensors")
    assert {n.removeprefix("transformer."): a.tobytes() for n, a in read.items()} == {
        n: a.tobytes() for n, a in weights.items()
    }


def test_we_read_what_the_safetensors_library_writes(tmp_path: Path) -> None:
    weights = {n: a.copy() for n, a in weights_of(oracle()).items() if n != "lm_head.weight"}
    GPT2Config(**SHAPE).save_pretrained(tmp_path)
    safetensors_numpy.save_file(weights, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert all(np.array_equal(checkpoint.tensor(n), a) for n, a in weights.items())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_bin_file_is_read_when_allowed(zipped: bool, dtype: str, tmp_path: Path) -> None:
    model = oracle().to(getattr(torch, dtype))
    state = dict(model.state_dict())
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    state["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    state["transformer.h.0.mlp.c_fc.weight"] = state["transformer.h.0.mlp.c_fc.weight"].t().contiguous().t()
    GPT2Config(**SHAPE).save_pretrained(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    checkpoint = open_checkpoint(tmp_path, allow_pickle=True)
    assert "lm_head.weight" not in checkpoint
    for name in checkpoint.names():
        expected = model.state_dict()[f"transformer.{name}"].float().numpy()
        assert np.array_equal(checkpoint.float32(name), expected)
        assert checkpoint.tensor(name).flags.c_contiguous
        assert not checkpoint.tensor(name).flags.writeable


def test_sharded_bin_files_are_read_when_allowed(tmp_path: Path) -> None:
    import json

    state = oracle().state_dict()
    names = sorted(set(state) - {"lm_head.weight"})
    files = {"pytorch_model-00001-of-00002.bin": names[:9], "pytorch_model-00002-of-00002.bin": names[9:]}
    for file, part in files.items():
        torch.save({name: state[name] for name in part}, tmp_path / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    GPT2Config(**SHAPE).save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path, allow_pickle=True)
    assert [f"transformer.{name}" for name in checkpoint.names()] == names
