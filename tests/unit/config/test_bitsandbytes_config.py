"""BitsAndBytesConfig alone, and inside config.json."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpt2kit import BitsAndBytesConfig, GPT2Config
from gpt2kit.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({}, None),
        ({"load_in_8bit": True}, "llm_int8"),
        ({"load_in_4bit": True}, "fp4"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4"),
        ({"bnb_4bit_quant_type": "nf4"}, None),
    ],
)
def test_quantization_method(settings: dict[str, Any], method: str | None) -> None:
    config = BitsAndBytesConfig(**settings)
    assert config.quantization_method() == method
    assert config.is_quantizable() is (method is not None)


def test_dtypes_are_torchs_when_they_are_read() -> None:
    import torch

    config = BitsAndBytesConfig(bnb_4bit_compute_dtype="float16", bnb_4bit_quant_storage=torch.bfloat16)
    assert config.bnb_4bit_compute_dtype is torch.float16
    assert config.bnb_4bit_quant_storage is torch.bfloat16


def test_torch_is_not_imported_for_it() -> None:
    code = (
        "import sys; from gpt2kit import BitsAndBytesConfig; "
        "print(BitsAndBytesConfig(load_in_4bit=True).to_dict(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"load_in_4bit": True, "load_in_8bit": True}, ValueError, "only one can be used at the same time"),
    ({"load_in_4bit": "yes"}, TypeError, "load_in_4bit must be a boolean"),
    ({"load_in_8bit": 1}, TypeError, "load_in_8bit must be a boolean"),
    ({"llm_int8_threshold": 6}, TypeError, "llm_int8_threshold must be a float"),
    ({"llm_int8_threshold": float("nan")}, ValueError, "llm_int8_threshold is nan"),
    ({"llm_int8_threshold": -1.0}, ValueError, "llm_int8_threshold is -1.0"),
    ({"llm_int8_skip_modules": "lm_head"}, TypeError, "must be a list of strings"),
    ({"llm_int8_skip_modules": [1]}, TypeError, "must be a list of strings"),
    ({"llm_int8_skip_modules": ["(a+)+$"]}, ValueError, "without groups"),
    ({"llm_int8_skip_modules": [".*" * 9]}, ValueError, "three repeats"),
    ({"llm_int8_skip_modules": ["[a"]}, ValueError, "is no pattern"),
    ({"llm_int8_enable_fp32_cpu_offload": None}, TypeError, "must be a boolean"),
    ({"llm_int8_has_fp16_weight": 0}, TypeError, "must be a boolean"),
    ({"bnb_4bit_compute_dtype": 16}, ValueError, "must be a string or a torch.dtype"),
    ({"bnb_4bit_compute_dtype": "int8"}, ValueError, "must be one of float32, float16, bfloat16"),
    ({"bnb_4bit_quant_storage": "complex64"}, ValueError, "bnb_4bit_quant_storage must be one of"),
    ({"bnb_4bit_quant_type": 4}, TypeError, "must be a string"),
    ({"bnb_4bit_quant_type": "int4"}, ValueError, "bnb_4bit_quant_type is 'int4'; allowed: fp4, nf4"),
    ({"bnb_4bit_use_double_quant": "true"}, TypeError, "must be a boolean"),
    ({"quant_method": "gptq"}, ValueError, "quant_method is 'gptq'"),
    ({"bits": 4}, ValueError, "bits: no such setting"),
]


@pytest.mark.parametrize(("settings", "error", "reason"), REFUSED, ids=str)
def test_refusals(settings: dict[str, Any], error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason) as caught:
        BitsAndBytesConfig(**settings)
    assert isinstance(caught.value, ConfigError)


def test_assigning_checks_too() -> None:
    config = BitsAndBytesConfig(load_in_8bit=True)
    with pytest.raises(ValueError, match="only one"):
        config.load_in_4bit = True
    config.load_in_8bit = False
    config.load_in_4bit = True
    assert config.quantization_method() == "fp4"


def test_update_gives_back_what_it_does_not_know() -> None:
    config = BitsAndBytesConfig()
    assert config.update(load_in_8bit=True, colour=1) == {"colour": 1}
    assert config.load_in_8bit
    with pytest.raises(ConfigError, match="colour"):
        BitsAndBytesConfig.from_dict({}, colour=1)
    assert BitsAndBytesConfig.from_dict({}, return_unused_kwargs=True, colour=1)[1] == {"colour": 1}


def test_files_round_trip(tmp_path: Path) -> None:
    config = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["lm_head"])
    config.to_json_file(tmp_path / "quantization.json")
    content = json.loads((tmp_path / "quantization.json").read_text())
    assert BitsAndBytesConfig.from_dict(content) == config
    assert dict(config) == content


def test_config_json_keeps_it_byte_for_byte(tmp_path: Path) -> None:
    config = GPT2Config(quantization_config=BitsAndBytesConfig(load_in_8bit=True))
    config.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_bytes()
    again = GPT2Config.from_pretrained(tmp_path)
    assert again.quantization_config["load_in_8bit"] is True
    again.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == text


def test_none_in_a_file_is_no_quantisation() -> None:
    assert not hasattr(GPT2Config.from_dict({"quantization_config": None}), "quantization_config")


@pytest.mark.parametrize("value", ["nf4", 4, {"load_in_4bit": 1}, {"load_in_4bit": True, "auto_map": {}}])
def test_bad_values_of_a_file_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="quantization_config"):
        GPT2Config.from_dict({"quantization_config": value})
