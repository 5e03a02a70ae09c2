import json

import pytest
import torch

from gpt2kit.errors import CheckpointError, ConfigError
from gpt2kit.model import AutoModel, AutoModelForCausalLM, GPT2LMHeadModel, GPT2Model
from gpt2kit.model.pretrained.placement import as_device


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())


def test_what_was_written_is_read(model, tmp_path) -> None:
    model.save_pretrained(tmp_path / "m")
    back = GPT2LMHeadModel.from_pretrained(tmp_path / "m")
    assert same(model, back)
    assert not back.training
    assert back.lm_head.weight is back.transformer.wte.weight


def test_trunk_and_language_model_read_each_others_folders(model, tmp_path) -> None:
    model.save_pretrained(tmp_path / "lm")
    trunk = GPT2Model.from_pretrained(tmp_path / "lm")
    assert same(trunk, model.transformer)
    trunk.save_pretrained(tmp_path / "trunk")
    assert same(GPT2LMHeadModel.from_pretrained(tmp_path / "trunk"), model)


def test_a_head_that_the_file_lacks_is_drawn_with_a_warning(model, tmp_path) -> None:
    model.transformer.config.tie_word_embeddings = False
    model.transformer.save_pretrained(tmp_path / "m")
    with pytest.warns(UserWarning, match=r"lm_head.weight missing; drawn at random"):
        back, info = GPT2LMHeadModel.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert info["missing_keys"] == {"lm_head.weight"}
    assert 0.01 < back.lm_head.weight.std().item() < 0.03


def test_weights_that_no_part_takes_are_named(config, tmp_path) -> None:
    config.tie_word_embeddings = False
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "m")
    with pytest.warns(UserWarning, match=r"lm_head.weight not used"):
        _, info = GPT2Model.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert info["unexpected_keys"] == {"lm_head.weight"}


@pytest.mark.parametrize("dtype", ["float32", torch.bfloat16, "torch.float16"])
def test_dtype_converts_on_reading(model, tmp_path, dtype) -> None:
    model.save_pretrained(tmp_path / "m")
    back = GPT2LMHeadModel.from_pretrained(tmp_path / "m", dtype=dtype)
    assert str(back.dtype).removeprefix("torch.") == str(dtype).removeprefix("torch.")
    assert same(back, model.to(back.dtype))


def test_shards_are_written_and_read(model, tmp_path) -> None:
    model.save_pretrained(tmp_path / "m", max_shard_size="10KB")
    assert len(list((tmp_path / "m").glob("model-*.safetensors"))) > 1
    assert same(GPT2LMHeadModel.from_pretrained(tmp_path / "m"), model)


def test_a_config_that_the_weights_do_not_fit_is_refused(model, tmp_path) -> None:
    model.save_pretrained(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 61}))
    with pytest.raises(CheckpointError, match=r"wte.weight.*shape"):
        GPT2LMHeadModel.from_pretrained(tmp_path / "m")


def test_unknown_dtype_and_device_are_refused(model, tmp_path) -> None:
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(ConfigError, match=r"dtype is 'int3'; it must be one of float32, float16, bfloat16"):
        GPT2LMHeadModel.from_pretrained(tmp_path / "m", dtype="int3")
    for device in ("nowhere", "cuda:99", 99):
        with pytest.raises(ConfigError, match="this machine has cpu"):
            GPT2LMHeadModel.from_pretrained(tmp_path / "m", device_map=device)
    assert as_device("cpu") == torch.device("cpu")


def test_attention_is_chosen_on_reading(model, tmp_path) -> None:
    model.save_pretrained(tmp_path / "m")
    back = GPT2LMHeadModel.from_pretrained(tmp_path / "m", attn_implementation="eager")
    assert back.attn_implementation == back.transformer.attn_implementation == "eager"
    assert "attn_implementation" not in (tmp_path / "m" / "config.json").read_text()


def test_from_config_starts_at_random(config) -> None:
    a, b = (GPT2LMHeadModel.from_config(config, dtype="bfloat16") for _ in range(2))
    assert a.dtype == torch.bfloat16
    assert not same(a, b)


def test_auto_classes_make_the_gpt2_classes(model, config, tmp_path) -> None:
    model.save_pretrained(tmp_path / "m")
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "m")) is GPT2LMHeadModel
    assert type(AutoModel.from_pretrained(tmp_path / "m", dtype="float16")) is GPT2Model
    assert type(AutoModelForCausalLM.from_config(config)) is GPT2LMHeadModel
    assert type(AutoModel.from_config(config)) is GPT2Model


def test_settings_change_single_fields_of_the_configuration(model, config, tmp_path) -> None:
    model.save_pretrained(tmp_path / "m")
    back = GPT2LMHeadModel.from_pretrained(
        tmp_path / "m", pad_token_id=7, attn_pdrop=0.5, torch_dtype="float16"
    )
    assert (back.config.pad_token_id, back.config.attn_pdrop, back.dtype) == (7, 0.5, torch.float16)
    with pytest.raises(ConfigError, match="pad_tokenid"):
        GPT2LMHeadModel.from_pretrained(tmp_path / "m", pad_tokenid=7)
    with pytest.raises(ConfigError, match="beside a configuration"):
        GPT2LMHeadModel.from_pretrained(tmp_path / "m", config=config, pad_token_id=7)
