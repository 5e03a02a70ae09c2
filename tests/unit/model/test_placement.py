import sys
from collections.abc import Iterator

import pytest
import torch

from gpt2kit.errors import ConfigError, MissingDependencyError
from gpt2kit.model import GPT2LMHeadModel
from gpt2kit.model.pretrained.placement import STRATEGIES, plan

CPU = torch.device("cpu")
IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])
ON_DISK = {"transformer.wte": "cpu", "transformer.wpe": "cpu", "transformer.h": "disk", "": "cpu"}


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


@pytest.fixture
def without_accelerate(monkeypatch) -> Iterator[None]:
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "gpt2kit.model.pretrained.placement.find_spec",
        lambda name: None if name == "accelerate" else find_spec(name),
    )
    for name in [name for name in sys.modules if name.split(".")[0] == "accelerate"]:
        monkeypatch.setitem(sys.modules, name, None)
    yield


@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator would be chosen")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategies_choose_the_cpu_where_there_is_nothing_else(model, strategy, without_accelerate) -> None:
    placement = plan(model, strategy)
    assert placement.device_map == {"": CPU}
    assert not placement.is_spread


@pytest.mark.parametrize(
    "device_map", [None, "cpu", CPU, {"": "cpu"}, {"transformer": "cpu", "lm_head": CPU}]
)
def test_one_device_needs_no_accelerate(folder, model, device_map, without_accelerate) -> None:
    back = GPT2LMHeadModel.from_pretrained(folder, device_map=device_map)
    assert torch.equal(back(IDS).logits, model(IDS).logits)
    assert not hasattr(back, "hf_device_map")


def test_the_longest_name_decides(model) -> None:
    placement = plan(
        model, {"": "cpu", "transformer.h.1": "disk", "transformer.h.1.ln_1": "cpu"}, offload_folder="x"
    )
    places = {name: placement.place(name) for name, _ in model.named_parameters()}
    assert places["transformer.h.1.ln_1.bias"] == CPU
    assert places["transformer.h.1.attn.c_attn.bias"] == "disk"
    assert places["transformer.h.0.ln_1.bias"] == CPU


@pytest.mark.parametrize(
    ("device_map", "options", "says"),
    [
        ({"transformer.h.0": "cpu"}, {}, r"no device to transformer.wte.weight \(.* weights\)"),
        (
            {"": "cpu", "transformer.g": "cpu"},
            {},
            "names 'transformer.g'; GPT2LMHeadModel has no such module",
        ),
        ({"": "cpu", "lm_head": "cuda:99"}, {}, "device is 'cuda:99'; this machine has"),
        ({"": "cpu", "transformer.h": "disk"}, {}, "give offload_folder"),
        (
            {"": "cpu", "lm_head": "disk"},
            {"offload_folder": "x"},
            "two places, one of them disk; they are one",
        ),
        ({"": None}, {}, "device is None"),
        ("everywhere", {}, "device is 'everywhere'; this machine has"),
        (-1, {}, "device is -1"),
        ("cpu", {"max_memory": {"cpu": "1GB"}}, "max_memory needs a device_map of auto, balanced"),
    ],
)
def test_what_cannot_be_is_refused(model, device_map, options, says) -> None:
    with pytest.raises(ConfigError, match=says):
        plan(model, device_map, **options)


@pytest.mark.parametrize(
    ("device_map", "options"),
    [(ON_DISK, {"offload_folder": "x"}), ("auto", {"max_memory": {"cpu": "1GB"}})],
)
def test_accelerate_is_asked_for_where_it_is_needed(model, device_map, options, without_accelerate) -> None:
    with pytest.raises(MissingDependencyError, match="pip install accelerate"):
        plan(model, device_map, **options)


def test_modules_on_disk_compute_the_same_and_are_saved(folder, model, tmp_path) -> None:
    pytest.importorskip("accelerate")
    back = GPT2LMHeadModel.from_pretrained(folder, device_map=ON_DISK, offload_folder=tmp_path / "offload")
    assert back.hf_device_map["transformer.h"] == "disk"
    assert back.hf_device_map["transformer.ln_f"] == back.hf_device_map["lm_head"] == "cpu"
    assert back.transformer.h[0].attn.c_attn.weight.is_meta
    assert not back.transformer.wte.weight.is_meta
    assert back.lm_head.weight is back.transformer.wte.weight
    with torch.no_grad():
        assert torch.equal(back(IDS).logits, model(IDS).logits)
    back.save_pretrained(tmp_path / "again")
    again = GPT2LMHeadModel.from_pretrained(tmp_path / "again")
    assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_tied_weights_on_disk_are_found_under_both_names(folder, model, tmp_path) -> None:
    pytest.importorskip("accelerate")
    device_map = {"transformer.wte": "disk", "lm_head": "disk", "": "cpu"}
    back = GPT2LMHeadModel.from_pretrained(folder, device_map=device_map, offload_folder=tmp_path / "offload")
    with torch.no_grad():
        assert torch.equal(back(IDS).logits, model(IDS).logits)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="memory of the accelerator is not given")
def test_what_does_not_fit_goes_to_disk(folder, model, tmp_path) -> None:
    pytest.importorskip("accelerate")
    some = sum(p.nbytes for p in model.parameters()) * 3 // 4
    back = GPT2LMHeadModel.from_pretrained(
        folder, device_map="auto", max_memory={"cpu": some}, offload_folder=tmp_path / "offload"
    )
    assert set(back.hf_device_map.values()) == {"cpu", "disk"}
    with torch.no_grad():
        assert torch.equal(back(IDS).logits, model(IDS).logits)


def test_weights_that_the_file_lacks_are_drawn_before_they_go_to_disk(model, tmp_path) -> None:
    pytest.importorskip("accelerate")
    model.save_pretrained(tmp_path / "m")
    with pytest.warns(UserWarning, match=r"transformer.h.2.attn.c_attn.bias"):
        back = GPT2LMHeadModel.from_pretrained(
            tmp_path / "m", n_layer=3, device_map=ON_DISK, offload_folder=tmp_path / "offload"
        )
    with torch.no_grad():
        assert back(IDS).logits.isfinite().all()
