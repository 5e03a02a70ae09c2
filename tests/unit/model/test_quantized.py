"""Models with quantised weights: loading, running, restrictions, saving and the way back."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gpt2kit import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GPT2Config,
    GPT2DoubleHeadsModel,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    GPT2Model,
    load_engine,
)
from gpt2kit.checkpoint import open_checkpoint
from gpt2kit.cli.info import model_facts
from gpt2kit.errors import CheckpointError, ConfigError, EngineError
from gpt2kit.model.attention import Conv1D
from gpt2kit.model.quantized.linear import QuantizedLinear
from gpt2kit.model.quantized.linear_4bit import Linear4bit
from gpt2kit.model.quantized.linear_8bit import Linear8bit
from gpt2kit.model.quantized.quantizer import Quantizer
from gpt2kit.quant import dequantize_4bit, dequantize_8bit, quantize_4bit, quantize_8bit

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
FP4_TWICE = {"load_in_4bit": True, "bnb_4bit_use_double_quant": True}
INT8 = {"load_in_8bit": True}
STORED_AS_BF16 = {**NF4, "bnb_4bit_quant_storage": "bfloat16"}
STORED_AS_F64 = {**NF4, "bnb_4bit_quant_storage": "float64"}
ALL = pytest.mark.parametrize("settings", [NF4, FP4_TWICE, INT8, STORED_AS_BF16, STORED_AS_F64], ids=str)
IDS = torch.tensor([[5, 1, 8, 2, 0, 3]])


def config(**settings: Any) -> GPT2Config:
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 24, "n_positions": 16, "vocab_size": 11}
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return GPT2Config(**{**shape, **ids, "initializer_range": 0.2, **settings})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("plain")
    GPT2LMHeadModel(config()).save_pretrained(path)
    return path


def load(folder: Path, settings: dict[str, Any], **options: Any) -> GPT2LMHeadModel:
    model: GPT2LMHeadModel = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=BitsAndBytesConfig(**settings), **options
    )
    return model


def quantized(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)]


@ALL
def test_weights_are_the_formats_own(folder: Path, settings: dict[str, Any]) -> None:
    model = load(folder, settings)
    original = open_checkpoint(folder).float32("h.1.mlp.c_fc.weight").T
    module = model.transformer.h[1].mlp.c_fc
    if isinstance(module, Linear8bit):
        expected = dequantize_8bit(quantize_8bit(original))
    else:
        quant_type = settings.get("bnb_4bit_quant_type", "fp4")
        mean = lambda absmax: float(torch.from_numpy(absmax).mean())  # noqa: E731
        twice = settings.get("bnb_4bit_use_double_quant", False)
        expected = dequantize_4bit(quantize_4bit(original, quant_type, double_quant=twice, mean=mean))
    assert module.dequantize(torch.float32).numpy().tolist() == expected.tolist()


@ALL
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_quantised_model_gives_what_its_dequantised_one_gives(
    folder: Path, settings: dict[str, Any], dtype: str
) -> None:
    model = load(folder, settings, dtype=dtype)
    plain = copy.deepcopy(model).dequantize()
    with torch.inference_mode():
        ours, expected = model(IDS).logits.float(), plain(IDS).logits.float()
    # 8 bits: inputs are quantised too.
    tolerance = 0.05 if settings is INT8 else {"float32": 1e-5, "float16": 5e-3, "bfloat16": 5e-2}[dtype]
    assert (ours - expected).abs().max() <= tolerance * expected.abs().max()
    assert model.dtype == getattr(torch, dtype)


@pytest.mark.parametrize("settings", [NF4, FP4_TWICE, INT8], ids=str)
def test_panels_do_not_show(folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(folder, settings).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    whole = model(IDS).logits
    monkeypatch.setattr("gpt2kit.model.quantized.linear._PANEL", 1)
    torch.testing.assert_close(model(IDS).logits, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [NF4, INT8], ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_gradients_pass_through_quantised_weights(
    folder: Path, settings: dict[str, Any], training: bool
) -> None:
    module = load(folder, settings).transformer.h[0].mlp.c_fc.train(training)
    x = torch.randn(2, 3, 24, requires_grad=True)
    module(x).backward(grad := torch.randn(2, 3, 96))
    torch.testing.assert_close(x.grad, grad @ module.dequantize(torch.float32), rtol=1e-5, atol=1e-5)
    assert module.weight.grad is None


def test_inputs_of_size_are_multiplied_unquantised(folder: Path) -> None:
    module = load(folder, INT8).transformer.h[0].mlp.c_fc
    x = torch.randn(5, 24).clamp(-5, 5)
    x[:, 7] = 100.0  # past the threshold of 6: without it, every other column would lose its bits
    expected = x @ module.dequantize(torch.float32).t() + module.bias
    scale = expected.abs().max()
    assert (module(x) - expected).abs().max() < 0.002 * scale
    module.threshold = 0.0
    assert (module(x) - expected).abs().max() > 0.005 * scale


def test_16_bit_weights_are_quantised_at_each_forward(folder: Path, tmp_path: Path) -> None:
    settings = {**INT8, "llm_int8_has_fp16_weight": True}
    model = load(folder, settings)
    module = model.transformer.h[0].mlp.c_fc
    assert module.weight.dtype == torch.float32
    assert module.weight.shape == (96, 24)
    with torch.inference_mode():
        expected = load(folder, INT8)(IDS).logits
        assert torch.equal(model(IDS).logits, expected)
        model.save_pretrained(tmp_path)
        assert torch.equal(GPT2LMHeadModel.from_pretrained(tmp_path)(IDS).logits, expected)
    module.train()(torch.ones(1, 24)).sum().backward()
    assert module.weight.grad is not None
    torch.testing.assert_close(module.weight.grad, torch.ones(96, 24))


@ALL
def test_what_is_left_in_full(folder: Path, settings: dict[str, Any]) -> None:
    model = load(folder, settings)
    parts = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert quantized(model) == [f"transformer.h.{i}.{part}" for i in range(2) for part in parts]
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize(
    ("skip", "count", "has_head"),
    [
        (None, 8, False),
        (["lm_head"], 8, False),
        ([], 9, True),
        (["transformer.h.1"], 5, True),
        (["c_proj", "lm_head"], 4, False),
        (["transformer.h.*.mlp", "lm_head"], 4, False),
        (["h.0"], 9, True),  # patterns start at the model
    ],
)
def test_skipped_modules(tmp_path: Path, skip: list[str] | None, count: int, has_head: bool) -> None:
    GPT2LMHeadModel(config(tie_word_embeddings=False)).save_pretrained(tmp_path)
    model = load(tmp_path, {**NF4, "llm_int8_skip_modules": skip})
    names = quantized(model)
    assert len(names) == count
    assert ("lm_head" in names) is has_head


def test_a_tied_head_stays_the_embeddings(folder: Path) -> None:
    model = load(folder, {**NF4, "llm_int8_skip_modules": []})
    assert model.lm_head.weight is model.transformer.wte.weight


def test_modules_of_eleven_layers_are_told_apart(tmp_path: Path) -> None:
    GPT2LMHeadModel(config(n_layer=11, n_embd=4)).save_pretrained(tmp_path)
    names = quantized(load(tmp_path, {**NF4, "llm_int8_skip_modules": ["transformer.h.1"]}))
    assert not any(name.startswith("transformer.h.1.") for name in names)
    assert "transformer.h.10.mlp.c_fc" in names


@pytest.mark.parametrize(
    ("model_class", "head"),
    [
        (GPT2Model, None),
        (GPT2ForSequenceClassification, None),  # its score is the last weight
        (GPT2ForTokenClassification, "classifier"),  # the last parameter is a bias
        (GPT2DoubleHeadsModel, "multiple_choice_head.summary"),
    ],
)
def test_heads_that_the_file_lacks_are_drawn(folder: Path, model_class: Any, head: str | None) -> None:
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        model = model_class.from_pretrained(folder, quantization_config=BitsAndBytesConfig(**NF4))
    names = quantized(model)
    assert len(names) == 8 + (head is not None)
    if head is not None:
        weight = model.get_submodule(head).dequantize(torch.float32)
        assert 0.1 < weight.std() < 0.3  # initializer_range is 0.2
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


@ALL
def test_saving_and_loading_changes_no_bit(folder: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    model = load(folder, settings)
    model.save_pretrained(tmp_path / "a", max_shard_size="8KB")
    again = GPT2LMHeadModel.from_pretrained(tmp_path / "a")
    again.save_pretrained(tmp_path / "b", max_shard_size="8KB")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(names) > 3
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert again.config.quantization_config == BitsAndBytesConfig(**settings)
    with torch.inference_mode():
        assert torch.equal(again(IDS).logits, model(IDS).logits)


@ALL
def test_pickled_files_hold_them_too(folder: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    model = load(folder, settings)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    again = GPT2LMHeadModel.from_pretrained(tmp_path, use_safetensors=False)
    with torch.inference_mode():
        assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_info_counts_weights_unpacked(folder: Path, tmp_path: Path) -> None:
    load(folder, FP4_TWICE).save_pretrained(tmp_path)
    plain, facts = (model_facts(path, allow_pickle=False) for path in (folder, tmp_path))
    assert facts["parameters"] == plain["parameters"]
    assert facts["dtypes"]["U8"] == 3 * 8


def test_a_folder_that_is_quantised_wins_over_the_caller(folder: Path, tmp_path: Path) -> None:
    load(folder, NF4).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="already has a `quantization_config`"):
        model = load(tmp_path, INT8)
    assert model.is_loaded_in_4bit


@ALL
def test_state_dicts_go_both_ways(folder: Path, settings: dict[str, Any]) -> None:
    model, other = load(folder, settings), load(folder, settings)
    for module in other.modules():
        if isinstance(module, QuantizedLinear):
            module.weight.data.view(torch.uint8).zero_()
    state = model.state_dict()
    key = "transformer.h.0.mlp.c_fc."
    assert f"{key}SCB" in state or f"{key}weight.absmax" in state
    other.load_state_dict(state)
    with torch.inference_mode():
        assert torch.equal(other(IDS).logits, model(IDS).logits)


@ALL
def test_copies_and_pickles_run_alike(folder: Path, settings: dict[str, Any]) -> None:
    model = load(folder, settings)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.inference_mode():
            assert torch.equal(twin(IDS).logits, model(IDS).logits)


@ALL
def test_dequantising_gives_a_plain_model(folder: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    model = load(folder, settings)
    expected = {name: model.get_submodule(name).dequantize(torch.float32) for name in quantized(model)}
    assert model.dequantize() is model
    assert not quantized(model)
    assert (model.is_quantized, model.is_loaded_in_4bit, model.is_loaded_in_8bit) == (False, False, False)
    assert model.quantization_method is None
    assert not hasattr(model.config, "quantization_config")
    for name, weight in expected.items():
        module = model.get_submodule(name)
        assert isinstance(module, Conv1D)
        assert torch.equal(module.weight, weight.t())
    model.half().save_pretrained(tmp_path)
    assert GPT2LMHeadModel.from_pretrained(tmp_path).dtype == torch.float16
    with pytest.raises(ConfigError, match="You need to first quantize"):
        model.dequantize()


def test_dequantising_to_another_dtype(folder: Path) -> None:
    model = load(folder, NF4).dequantize(torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@ALL
def test_dtypes_cannot_change(folder: Path, settings: dict[str, Any]) -> None:
    model = load(folder, settings)
    for name in ("half", "float", "double", "bfloat16"):
        with pytest.raises(ValueError, match=rf"`\.{name}\(\)` is not supported for quantized model"):
            getattr(model, name)()
    for arguments in ((torch.float16,), ("cpu", torch.float16), (torch.zeros(1),)):
        with pytest.raises(ValueError, match="You cannot cast a bitsandbytes model in a new `dtype`"):
            model.to(*arguments)
    with pytest.raises(ValueError, match="You cannot cast"):
        model.to(dtype=torch.float32)
    assert model.to("cpu") is model


@ALL
def test_casting_a_layer_leaves_its_bits(folder: Path, settings: dict[str, Any]) -> None:
    module = load(folder, settings).transformer.h[0].mlp.c_fc
    before = module.dequantize(torch.float32)
    assert torch.equal(module.half().dequantize(torch.float32), before)
    assert module.bias.dtype == torch.float16


def test_attributes(folder: Path) -> None:
    model = load(folder, NF4)
    assert model.is_quantized
    assert (model.is_loaded_in_4bit, model.is_loaded_in_8bit) == (True, False)
    assert model.quantization_method == "bitsandbytes"
    assert model.hf_quantizer is not None
    assert model.hf_quantizer.is_serializable()
    assert model.config.quantization_config.quantization_method() == "nf4"
    assert isinstance(model.transformer.h[0].mlp.c_fc, Linear4bit)
    assert (load(folder, INT8).is_loaded_in_4bit, load(folder, INT8).is_loaded_in_8bit) == (False, True)


@ALL
def test_weights_are_counted_as_if_unpacked(folder: Path, settings: dict[str, Any]) -> None:
    plain, model = GPT2LMHeadModel.from_pretrained(folder), load(folder, settings)
    assert model.num_parameters() == plain.num_parameters()
    matrices = 2 * 12 * 24 * 24
    bytes_saved = matrices * (3.0 if settings is INT8 else 3.5)
    assert model.get_memory_footprint() == plain.get_memory_footprint() - bytes_saved


def test_float_weights_stay_trainable(folder: Path) -> None:
    model = load(folder, NF4)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "transformer.wte.weight" in trainable
    assert "transformer.h.0.ln_1.weight" in trainable
    assert not any("c_fc" in name for name in trainable)


def test_the_torch_engine_runs_it_and_auto_chooses_that(folder: Path, tmp_path: Path) -> None:
    model = load(folder, NF4)
    model.save_pretrained(tmp_path)
    engine = load_engine(tmp_path)
    [output] = engine.forward([(engine.new_sequence(), IDS[0].tolist())], logits="all")
    with torch.inference_mode():
        expected = model(IDS).logits[0].numpy()
    np.testing.assert_allclose(output.logits, expected, rtol=1e-4, atol=1e-5)
    assert len(engine.generate([[1, 2]], max_new_tokens=5)[0]) <= 5
    with pytest.raises(EngineError, match="native products in NF4 need a multiple of 64"):
        load_engine(tmp_path, engine="native")


@pytest.mark.parametrize("name", ["load_in_4bit", "load_in_8bit"])
def test_bare_switches_point_to_the_config(folder: Path, name: str) -> None:
    with pytest.raises(TypeError, match=rf"quantization_config=BitsAndBytesConfig\({name}=True\)"):
        GPT2LMHeadModel.from_pretrained(folder, **{name: True})


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (BitsAndBytesConfig(), "asks for nothing"),
        ("nf4", "quantization_config is a str"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "only one"),
        ({"bits": 4}, "bits: no such setting"),
    ],
)
def test_bad_quantization_configs_are_refused(folder: Path, given: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        GPT2LMHeadModel.from_pretrained(folder, quantization_config=given)


def test_a_mapping_is_a_config_too(folder: Path) -> None:
    assert GPT2LMHeadModel.from_pretrained(folder, quantization_config=NF4).is_loaded_in_4bit


def test_modules_beside_an_accelerator_are_refused_or_left(folder: Path, tmp_path: Path) -> None:
    options = {
        "device_map": {"transformer.h.1": "disk", "transformer": "cpu", "lm_head": "cpu"},
        "offload_folder": tmp_path,
    }
    with pytest.raises(ValueError, match="Some modules are dispatched on the CPU or the disk"):
        load(folder, NF4, **options)
    with torch.device("meta"):
        model = GPT2LMHeadModel(config())
    lenient = BitsAndBytesConfig(**NF4, llm_int8_enable_fp32_cpu_offload=True)
    device_map = {"transformer.h.0": 0, "transformer.h.1": "cpu", "": 0}
    Quantizer(lenient, False).put_modules(model, device_map)
    assert {name.split(".")[2] for name in quantized(model)} == {"0"}


def test_a_map_that_is_all_cpu_is_like_none(folder: Path) -> None:
    device_map = {"transformer.h.0": "cpu", "transformer": "cpu", "lm_head": "cpu"}
    assert len(quantized(load(folder, NF4, device_map=device_map))) == 8


def test_float64_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="float64; weights are quantised from float32, float16 or bfloat16"):
        load(folder, NF4, dtype="float64")


def test_files_whose_bits_are_not_those_of_their_config(folder: Path, tmp_path: Path) -> None:
    load(folder, NF4).save_pretrained(tmp_path)
    wrong = GPT2Config.from_pretrained(tmp_path)
    wrong.quantization_config = BitsAndBytesConfig(**INT8)
    wrong.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="is not in the bits of its config"):
        GPT2LMHeadModel.from_pretrained(tmp_path)


def test_a_quantised_file_without_its_config_is_refused(folder: Path, tmp_path: Path) -> None:
    load(folder, NF4).save_pretrained(tmp_path)
    config().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"c_attn\.weight.* has (dtype U8|shape)"):
        GPT2LMHeadModel.from_pretrained(tmp_path)


def test_a_float_file_with_a_config_of_bits_is_refused(folder: Path, tmp_path: Path) -> None:
    model = GPT2LMHeadModel.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    stored = GPT2Config.from_pretrained(tmp_path)
    stored.quantization_config = NF4
    stored.save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"c_attn\.weight' is quantised, but .*quant_state.* is missing"
    ):
        GPT2LMHeadModel.from_pretrained(tmp_path)
