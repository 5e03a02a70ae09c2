"""The quantised formats, folders and models against bitsandbytes and Transformers, to the bit.

bitsandbytes' CPU kernel for dequantising misreads matrices whose rows are no whole blocks of 64 (0.50.2, AVX-512),
so there its plain form is the oracle, and models that are run on both sides have rows of whole blocks.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import gpt2kit
from gpt2kit.config import BitsAndBytesConfig, GPT2Config
from gpt2kit.model.quantized import bitsandbytes_products
from gpt2kit.model.quantized.linear_4bit import Linear4bit
from gpt2kit.model.quantized.linear_8bit import Linear8bit
from gpt2kit.quant import (
    CODES,
    dequantize_4bit,
    dequantize_8bit,
    dynamic_map,
    quantize_4bit,
    quantize_8bit,
)

bitsandbytes = pytest.importorskip("bitsandbytes")
F = bitsandbytes.functional

SETTINGS: list[dict[str, Any]] = [
    {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    {"load_in_4bit": True, "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "float16"},
    {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_quant_storage": "bfloat16"},
    {"load_in_4bit": True, "bnb_4bit_quant_storage": "float32"},
    {"load_in_8bit": True},
    {"load_in_8bit": True, "llm_int8_skip_modules": ["lm_head", "c_proj"]},
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """One thread, so that sums have one order; and no compiling of bitsandbytes' plain forms."""
    threads, disabled = torch.get_num_threads(), torch._dynamo.config.disable
    torch.set_num_threads(1)
    torch._dynamo.config.disable = True
    yield
    torch.set_num_threads(threads)
    torch._dynamo.config.disable = disabled


def random_weights(rng: np.random.Generator) -> np.ndarray:
    """A matrix of any shape: normal, tiny, huge, of all sizes at once, with ties or with zeros."""
    shape = tuple(rng.integers(1, 90, size=2))
    values = rng.standard_normal(shape)
    kind = rng.integers(8)
    if kind == 1:
        values *= 0.0
    elif kind == 2:
        values *= 1e30
    elif kind == 3:
        values *= 1e-42  # float32 has only a few bits left for these
    elif kind == 4:
        values *= 10 ** rng.uniform(-40, 30, shape)
    elif kind == 5:
        values = np.round(values * 4) / 4
    elif kind == 6:
        values[rng.random(shape) < 0.5] = 0.0
    elif kind == 7:
        values[rng.integers(shape[0])] = 0.0
    return values.astype(np.float32)


def check_formats(seed: int) -> None:
    weights = torch.from_numpy(random_weights(np.random.default_rng(seed))).to(DTYPES[seed % 3])
    array = weights.float().numpy()
    for quant_type in CODES:
        theirs, state = F.quantize_4bit(weights, quant_type=quant_type)
        ours = quantize_4bit(array, quant_type)
        assert ours.packed.tolist() == theirs.view(-1).tolist()
        assert ours.absmax.tobytes() == state.absmax.numpy().tobytes()
        plain = bitsandbytes.backends.default.ops._dequantize_4bit_compute(
            theirs.view(-1), state.absmax, state.code, 64, weights.shape, torch.float32
        )
        assert np.array_equal(dequantize_4bit(ours), plain.numpy(), equal_nan=True)

        if not torch.isfinite(weights).all():  # float16 ends at 65504
            continue
        theirs, state = F.quantize_4bit(weights, quant_type=quant_type, compress_statistics=True)
        offset = state.offset.item()
        ours = quantize_4bit(array, quant_type, double_quant=True, mean=lambda _, offset=offset: offset)
        assert ours.nested is not None
        assert ours.absmax.tolist() == state.absmax.tolist()
        assert ours.nested.absmax.tobytes() == state.state2.absmax.numpy().tobytes()
        exact = quantize_4bit(array, quant_type, double_quant=True).nested
        assert exact is not None
        assert exact.offset == pytest.approx(offset, rel=1e-6, abs=1e-44)

    codes, scales, _ = F.int8_vectorwise_quant(weights.half())
    rows = quantize_8bit(array)
    if torch.isfinite(weights.half()).all():
        assert rows.codes.tolist() == codes.tolist()
        assert rows.absmax.tobytes() == scales.numpy().tobytes()
        assert dequantize_8bit(rows).tobytes() == F.int8_vectorwise_dequant(codes, scales).numpy().tobytes()


@pytest.mark.parametrize("start", range(0, 120, 40))
def test_formats_over_random_matrices(start: int) -> None:
    for seed in range(start, start + 40):
        check_formats(seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 4000, 250))
def test_formats_over_many_random_matrices(start: int) -> None:
    for seed in range(start, start + 250):
        check_formats(seed)


def test_code_books() -> None:
    assert dynamic_map().tobytes() == F.create_dynamic_map().numpy().tobytes()
    for quant_type, code in CODES.items():
        assert code.tobytes() == F.get_4bit_type(quant_type, device="cpu").numpy().tobytes()


def oracle(model_class: str, seed: int, **options: Any) -> Any:
    rng = random.Random(seed)
    head_size = rng.choice([4, 16, 32])
    settings = {
        "n_layer": rng.randint(1, 3),
        "n_head": 2,
        "n_embd": 2 * head_size,
        "n_inner": rng.choice([None, 24, 64]),
        "vocab_size": 51,
        "n_positions": 24,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 1,
        "num_labels": 3,
        "initializer_range": 0.2,
        "tie_word_embeddings": rng.random() < 0.5,
    } | options
    torch.manual_seed(seed)
    return getattr(transformers, model_class)(transformers.GPT2Config(**settings)).eval()


def bits(folder: Path) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    """Every tensor of a folder as dtype, shape and bytes."""
    return as_bits(load_file(folder / "model.safetensors"))


def as_bits(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    return {
        name: (tensor.dtype, tuple(tensor.shape), tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, tensor in tensors.items()
    }


def quantize_both(model_class: str, source: Path, settings: dict[str, Any], dtype: torch.dtype) -> Any:
    theirs = getattr(transformers, model_class).from_pretrained(
        source, quantization_config=transformers.BitsAndBytesConfig(**settings), dtype=dtype
    )
    ours = getattr(gpt2kit, model_class).from_pretrained(
        source, quantization_config=BitsAndBytesConfig(**settings), dtype=dtype
    )
    return theirs, ours


@pytest.mark.parametrize("seed", range(len(SETTINGS) * 3))
def test_folders_are_the_same_to_the_bit(seed: int, tmp_path: Path) -> None:
    classes = [
        "GPT2LMHeadModel",
        "GPT2Model",
        "GPT2ForSequenceClassification",
        "GPT2ForTokenClassification",
        "GPT2DoubleHeadsModel",
        "GPT2ForQuestionAnswering",
    ]
    model_class, settings = classes[seed % len(classes)], SETTINGS[seed // 3]
    oracle(model_class, seed).save_pretrained(tmp_path / "source")
    theirs, ours = quantize_both(model_class, tmp_path / "source", settings, DTYPES[seed % 3])
    theirs.save_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    expected = bits(tmp_path / "theirs")
    assert bits(tmp_path / "ours") == expected
    assert ours.get_memory_footprint() == theirs.get_memory_footprint()
    assert ours.num_parameters() == theirs.num_parameters()
    assert ours.is_loaded_in_4bit == getattr(theirs, "is_loaded_in_4bit", False)
    assert ours.is_loaded_in_8bit == getattr(theirs, "is_loaded_in_8bit", False)
    assert ours.quantization_method == theirs.quantization_method

    ours_of_theirs = getattr(gpt2kit, model_class).from_pretrained(tmp_path / "theirs")
    ours_of_theirs.save_pretrained(tmp_path / "back")
    assert bits(tmp_path / "back") == expected
    theirs_of_ours, info = getattr(transformers, model_class).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(info.values())
    # Transformers cannot save again what it loaded quantised.
    assert as_bits(theirs_of_ours.state_dict()).items() >= expected.items()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_forward_of_the_same_bits(settings: dict[str, Any], tmp_path: Path) -> None:
    """In training mode, without dropout: in eval mode bitsandbytes computes in bfloat16 on some processors."""
    shape = {"n_embd": 64, "n_head": 2, "n_inner": 128, "tie_word_embeddings": False}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    oracle("GPT2LMHeadModel", 0, **shape, **no_dropout).save_pretrained(tmp_path)
    theirs, ours = quantize_both("GPT2LMHeadModel", tmp_path, settings, torch.float32)
    ids = torch.randint(0, 51, (2, 20), generator=torch.Generator().manual_seed(1))
    tolerance = 2e-3 if settings.get("bnb_4bit_compute_dtype") == "float16" else 2e-5
    for training in (True, False) if settings.get("load_in_8bit") else (True,):
        with torch.no_grad():
            expected = theirs.train(training)(ids).logits
            logits = ours.train(training)(ids).logits
        assert (logits - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("settings", SETTINGS[:5] + SETTINGS[6:7], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dequantised_models_have_the_same_bits(
    settings: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    oracle("GPT2LMHeadModel", 1, n_embd=64, n_inner=64).save_pretrained(tmp_path)
    theirs, ours = quantize_both("GPT2LMHeadModel", tmp_path, settings, dtype)
    expected, found = theirs.dequantize(), ours.dequantize()
    for name, module in expected.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            mine = found.get_submodule(name).weight
            assert mine.dtype == module.weight.dtype
            assert torch.equal(mine.t(), module.weight)  # ours is a Conv1D again


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("compute_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_bitsandbytes_products_of_our_4_bit_layers(
    nested: bool, compute_dtype: torch.dtype, bias: bool
) -> None:
    """What runs on accelerators, here on the CPU, which bitsandbytes knows too."""
    torch.manual_seed(0)
    layer = Linear4bit(128, 48, bias, False, compute_dtype=compute_dtype, quant_storage=torch.uint8)
    weight = torch.randn(48, 128).numpy()
    layer.set_weight(quantize_4bit(weight, "nf4", double_quant=nested), torch.device("cpu"))
    if bias:
        layer.bias = torch.nn.Parameter(torch.randn(48))
    x = torch.randn(3, 5, 128, requires_grad=True)
    tolerance = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 5e-2}[compute_dtype]
    y, expected = bitsandbytes_products.matmul_4bit(layer, x), layer(x)
    assert y.dtype == torch.float32
    assert (y - expected).abs().max() <= tolerance * expected.abs().max()
    (grad,) = torch.autograd.grad(y.sum(), x)
    (expected_grad,) = torch.autograd.grad(expected.sum(), x)
    assert (grad - expected_grad).abs().max() <= tolerance * expected_grad.abs().max()


@pytest.mark.parametrize("threshold", [0.0, 6.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_bitsandbytes_products_of_our_8_bit_layers(threshold: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = Linear8bit(64, 48, True, False, threshold=threshold, has_fp16_weights=False).eval()
    layer.set_weight(quantize_8bit(torch.randn(48, 64).numpy()), torch.device("cpu"))
    layer.bias = torch.nn.Parameter(torch.randn(48, dtype=dtype))
    for T in (1, 7):
        x = torch.randn(T, 64).to(dtype)
        x[:, 3] = 50.0
        x[0, 9] = -8.0
        expected = bitsandbytes_products.matmul_8bit(layer, x)
        y = layer(x)
        assert y.dtype == dtype
        assert (y - expected).abs().max() <= 2e-3 * expected.abs().max()


CONFIGS: list[dict[str, Any]] = [
    {},
    *SETTINGS,
    {"load_in_8bit": True, "llm_int8_threshold": 3.5, "llm_int8_has_fp16_weight": True},
    {"load_in_4bit": True, "llm_int8_enable_fp32_cpu_offload": True},
    {"bnb_4bit_compute_dtype": torch.bfloat16, "bnb_4bit_quant_storage": torch.float64},
]


@pytest.mark.parametrize("settings", CONFIGS, ids=str)
def test_configs(settings: dict[str, Any], tmp_path: Path) -> None:
    ours, theirs = BitsAndBytesConfig(**settings), transformers.BitsAndBytesConfig(**settings)
    assert ours.to_dict() == theirs.to_dict()
    assert ours.to_diff_dict() == theirs.to_diff_dict()
    for use_diff in (True, False):
        assert ours.to_json_string(use_diff) == theirs.to_json_string(use_diff)
    assert ours.quantization_method() == theirs.quantization_method()
    assert ours.is_quantizable() == theirs.is_quantizable()
    for name in ours.to_dict():
        assert getattr(ours, name.lstrip("_")) == getattr(theirs, name.lstrip("_"))

    model_settings = {"n_layer": 1, "bos_token_id": 0, "eos_token_id": 0}
    GPT2Config(**model_settings, quantization_config=ours).save_pretrained(tmp_path)
    again = transformers.GPT2Config.from_pretrained(tmp_path)
    assert again.quantization_config == theirs.to_dict()


@pytest.mark.parametrize(
    "settings",
    [
        {"load_in_4bit": True, "load_in_8bit": True},
        {"load_in_4bit": 1},
        {"load_in_8bit": "yes"},
        {"llm_int8_threshold": 6},
        {"llm_int8_skip_modules": "lm_head"},
        {"llm_int8_enable_fp32_cpu_offload": 1},
        {"llm_int8_has_fp16_weight": None},
        {"bnb_4bit_compute_dtype": 16},
        {"bnb_4bit_quant_storage": "int4"},
        {"bnb_4bit_quant_storage": 8},
        {"bnb_4bit_quant_type": None},
        {"bnb_4bit_use_double_quant": 0},
    ],
    ids=str,
)
def test_what_transformers_refuses_is_refused_with_the_same_kind_of_error(settings: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)) as theirs:
        transformers.BitsAndBytesConfig(**settings)
    with pytest.raises(theirs.type):
        BitsAndBytesConfig(**settings)
