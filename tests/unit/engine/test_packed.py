"""Packed folders: what load_engine maps is what it would have quantised, and nothing else is believed."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from gpt2kit import load_engine
from gpt2kit.checkpoint import open_checkpoint, save_checkpoint
from gpt2kit.cli.main import main
from gpt2kit.config import GPT2Config
from gpt2kit.engine import NativeEngine, quantize_folder
from gpt2kit.errors import CheckpointError, ConfigError, EngineError, GPT2Error
from gpt2kit.model import GPT2LMHeadModel


def model_folder(folder: Path, seed: int = 0, **options: object) -> Path:
    shape = {"n_layer": 2, "n_embd": 40, "n_head": 2, "vocab_size": 70, "n_positions": 20} | options
    config = GPT2Config(**shape)
    rng = np.random.default_rng(seed)
    from gpt2kit.checkpoint.names import trunk_shapes

    weights = {
        name: (rng.standard_normal(size) * 0.3).astype(np.float32)
        for name, size in trunk_shapes(config).items()
    }
    if not config.tie_word_embeddings:
        weights["lm_head.weight"] = rng.standard_normal((config.vocab_size, config.n_embd)).astype(np.float32)
    save_checkpoint(folder, weights, config, dtypes="F16" if options.pop("half", False) else None)
    return folder


def logits(engine: NativeEngine) -> np.ndarray:
    return engine.forward([(engine.new_sequence(), [1, 5, 69, 3])], logits="all")[0].logits


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": False, "n_inner": 65}, {"n_embd": 64}])
def test_a_packed_folder_gives_the_bits_of_quantising_at_load(
    tmp_path: Path, options: dict[str, object]
) -> None:
    model = model_folder(tmp_path / "model", **options)
    (model / "vocab.json").write_text("{}")
    files = quantize_folder(model, tmp_path / "packed")
    assert files[0] == "model.safetensors" and {"config.json", "vocab.json"} <= set(files)
    for quant in (None, "int8"):
        engine = load_engine(tmp_path / "packed", quant=quant)
        assert isinstance(engine, NativeEngine) and engine.quant == "int8"
        assert np.array_equal(logits(engine), logits(load_engine(model, quant="int8")))
    assert GPT2Config.from_pretrained(tmp_path / "packed").quantization_config["quant_method"] == "gpt2kit"


def test_codes_start_on_cache_lines_and_are_mapped(tmp_path: Path) -> None:
    quantize_folder(model_folder(tmp_path / "model", n_embd=20, n_inner=3), tmp_path / "packed")
    checkpoint = open_checkpoint(tmp_path / "packed")
    codes = [checkpoint.tensor(name) for name in checkpoint.names() if checkpoint.info(name).dtype == "U8"]
    assert len(codes) == 9
    for array in codes:
        assert array.__array_interface__["data"][0] % 64 == 0 and not array.flags.owndata
    engine = load_engine(checkpoint)
    assert np.shares_memory(engine._weights["wte.weight"].codes, checkpoint.tensor("wte.weight"))


def test_bf16_is_an_ordinary_folder(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model")
    quantize_folder(model, tmp_path / "short", "bf16")
    assert {open_checkpoint(tmp_path / "short").info(n).dtype for n in ("wte.weight", "ln_f.bias")} == {
        "BF16"
    }
    assert np.array_equal(
        logits(load_engine(tmp_path / "short")), logits(load_engine(model, dtype="bfloat16"))
    )
    assert GPT2LMHeadModel.from_pretrained(tmp_path / "short").config.n_embd == 40


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model")
    quantize_folder(model, tmp_path / "packed")
    with pytest.raises(EngineError, match="must be one of 'int8', 'bf16'"):
        quantize_folder(model, tmp_path / "other", "int3")
    with pytest.raises(EngineError, match="quantised already"):
        quantize_folder(tmp_path / "packed", tmp_path / "other")
    with pytest.raises(EngineError, match="own folder"):
        quantize_folder(model, model)
    with pytest.raises(EngineError, match="leave dtype out"):
        load_engine(tmp_path / "packed", dtype="float32")
    with pytest.raises(ConfigError, match="packed for the native engine"):
        GPT2LMHeadModel.from_pretrained(tmp_path / "packed")
    with pytest.raises(EngineError, match="packed for the native engine"):
        load_engine(tmp_path / "packed", engine="torch")
    with pytest.raises(CheckpointError, match="let load_engine read it"):
        open_checkpoint(tmp_path / "packed").float32("wte.weight")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version"),
        ({"version": True}, "version"),
        ({"version": None}, "version"),
        ({"format": "int9"}, "format"),
        ({"format": ["int8"]}, "format"),
        ({"bits": 3}, "bits"),
    ],
)
def test_settings_of_other_versions_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    quantize_folder(model_folder(tmp_path / "model"), tmp_path / "packed")
    path = tmp_path / "packed" / "config.json"
    content = json.loads(path.read_text())
    content["quantization_config"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        load_engine(tmp_path / "packed")


def rewritten(folder: Path, change) -> None:
    """Change the header and the data of the weights."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    change(header, data)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))


SCALES = "transformer.h.1.mlp.c_fc.weight.scales"
CODES = SCALES.removesuffix(".scales")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, d: h["__metadata__"].update(format="pt"), "metadata"),
        (lambda h, d: h.pop("__metadata__"), "metadata"),
        (lambda h, d: h[SCALES].update(dtype="F16"), "is F16"),
        (lambda h, d: h[CODES].update(dtype="I8"), "is I8"),
        (lambda h, d: h[CODES].update(shape=h[CODES]["shape"][::-1]), "the format needs"),
        (lambda h, d: h[SCALES].update(shape=[h[SCALES]["shape"][0] * 16]), "the format needs"),
        (lambda h, d: h.update({"x.scales": h.pop(SCALES)}), "has shape"),
        (lambda h, d: d.__setitem__(slice(*h[SCALES]["data_offsets"]), b"\x80\x7f" * (len(d[slice(*h[SCALES]["data_offsets"])]) // 2)), "not finite"),
        (lambda h, d: d.__setitem__(slice(h[SCALES]["data_offsets"][0], h[SCALES]["data_offsets"][0] + 2), b"\x00\xbf"), "negative or not finite"),
    ],
)  # fmt: skip
def test_files_that_break_the_format_are_refused(tmp_path: Path, change, message: str) -> None:
    quantize_folder(model_folder(tmp_path / "model"), tmp_path / "packed")
    rewritten(tmp_path / "packed", change)
    with pytest.raises(CheckpointError, match=message):
        load_engine(tmp_path / "packed")


def mutate_and_load(folder: Path, whole: bytes, rng: random.Random) -> bool:
    """Load a file with one change; tell whether it was believed. Anything but an error of ours fails the test."""
    content = bytearray(whole)
    kind = rng.randrange(4)
    if kind == 0:
        del content[rng.randrange(len(content)) :]
    elif kind == 1:
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(2000)] = rng.randrange(256)
    elif kind == 2:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    else:
        at = rng.randrange(2000)
        content[at : at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
    (folder / "model.safetensors").write_bytes(content)
    try:
        engine = load_engine(folder, threads=1)
    except GPT2Error:
        return False
    assert logits(engine).shape == (4, 70)
    return True


@pytest.mark.parametrize(
    "count", [300, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_changed_files_are_refused_or_run(tmp_path: Path, count: int) -> None:
    quantize_folder(model_folder(tmp_path / "model", n_layer=1), tmp_path / "packed")
    whole = (tmp_path / "packed" / "model.safetensors").read_bytes()
    rng = random.Random(count)
    believed = sum(mutate_and_load(tmp_path / "packed", whole, rng) for _ in range(count))
    assert 0.02 * count < believed < 0.6 * count


def test_transformers_refuses_a_packed_folder(tmp_path: Path) -> None:
    import transformers

    quantize_folder(model_folder(tmp_path / "model"), tmp_path / "packed")
    with pytest.raises(RuntimeError, match="mismatched"):
        transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "packed")


def test_the_command_writes_and_runs_a_packed_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gpt2kit import builtin

    out = tmp_path / "small"
    assert main(["quantize", str(builtin.path()), str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["format"] == "int8" and facts["bytes"] < facts["bytes_before"]
    assert main(["run", "-m", str(out), "In the beginning", "-n", "5", "--greedy"]) == 0
    packed = capsys.readouterr().out
    assert (
        main(["run", "-m", str(builtin.path()), "--quant", "int8", "In the beginning", "-n", "5", "--greedy"])
        == 0
    )
    assert capsys.readouterr().out == packed
    assert main(["info", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dtypes"]["U8"] > 0
    assert main(["quantize", str(out), str(tmp_path / "again")]) == 1
    shutil.rmtree(out)
