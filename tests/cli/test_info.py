import json
import os

import gpt2kit


def test_a_model_is_described(cli, model):
    report = json.loads(cli("info", "--json", model).out)
    assert report["model"] == report["folder"] == model
    assert report["config"]["n_layer"] == 2
    width, vocab, positions = 16, 262, 128
    block = 12 * width**2 + 13 * width
    assert report["parameters"] == (vocab + positions) * width + 2 * block + 2 * width
    assert report["dtypes"] == {"F32": report["tensors"]}
    assert report["files"]["model.safetensors"] == os.path.getsize(f"{model}/model.safetensors")


def test_a_model_is_described_for_people(cli, model):
    result = cli("info", model)
    assert result.code == 0
    assert "n_layer:" in result.out and "model.safetensors:" in result.out


def test_the_installation_is_described(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    report = json.loads(cli("info", "--json").out)
    assert report["versions"]["gpt2kit"] == gpt2kit.__version__
    assert report["cache_folder"] == str(tmp_path / "hub")
    assert report["native"]["available"] and report["native"]["isa"] in report["native"]["supported_isas"]
    assert "threads:" in cli("info").out


def test_the_cache_of_quantised_models_is_described(cli, monkeypatch, tmp_path):
    assert json.loads(cli("info", "--json").out)["native"]["cache_folder"] is None
    monkeypatch.setenv("GPT2KIT_CACHE", str(tmp_path))
    (tmp_path / "packed" / "0").mkdir(parents=True)
    (tmp_path / "packed" / "0" / "model.safetensors").write_bytes(bytes(1000))
    native = json.loads(cli("info", "--json").out)["native"]
    assert (native["cache_folder"], native["cache_bytes"]) == (str(tmp_path), 1000)


def test_mistakes_are_one_line(cli, model):
    assert cli("info", "/does/not/exist").code == 1
    assert cli("info", "--builtin", model).code == 2
