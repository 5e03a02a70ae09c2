"""Arguments of from_pretrained and save_pretrained that Transformers has: each acts or is refused with the reason."""

import json

import pytest
import torch

from gpt2kit import AutoConfig, GenerationConfig, GPT2Config
from gpt2kit.checkpoint import open_checkpoint
from gpt2kit.errors import CheckpointError, ConfigError, GenerationError, HubError
from gpt2kit.model import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Model,
)

REFUSED = {
    "trust_remote_code": True,
    "gguf_file": "model.gguf",
    "from_tf": True,
    "from_flax": True,
    "tp_plan": "auto",
    "proxies": {"https": "x"},
    "use_kernels": True,
    "weights_only": False,
}


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_by_name(folder, name) -> None:
    with pytest.raises(ConfigError, match=name):
        GPT2LMHeadModel.from_pretrained(folder, **{name: REFUSED[name]})


def test_arguments_that_ask_for_what_is_the_case_are_taken(folder) -> None:
    GPT2LMHeadModel.from_pretrained(
        folder,
        low_cpu_mem_usage=True,
        trust_remote_code=False,
        gguf_file=None,
        weights_only=True,
        proxies=None,
    )


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("attn_implementatio", "attn_implementation"),
        ("n_ctxx", ""),
        ("num_label", "num_labels"),
        ("dtyp", "dtype"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest(folder, config, given, near) -> None:
    expected = f"'{given}' is no argument.*{f'did you mean {near!r}' if near else ''}"
    for more in ({}, {"config": config}):
        with pytest.raises(ConfigError, match=expected):
            GPT2LMHeadModel.from_pretrained(folder, **{given: 1}, **more)


def test_config_is_an_object_a_folder_or_a_file_and_is_not_changed(folder, config, tmp_path) -> None:
    config.attn_pdrop = 0.5
    before = config.to_dict()
    back = GPT2LMHeadModel.from_pretrained(
        folder, config=config, dtype="float16", attn_implementation="eager"
    )
    assert back.config.attn_pdrop == 0.5
    assert config.to_dict() == before
    config.save_pretrained(tmp_path / "c")
    for where in (tmp_path / "c", str(tmp_path / "c" / "config.json")):
        back = GPT2LMHeadModel.from_pretrained(folder, config=where, resid_pdrop=0.25)
        assert (back.config.attn_pdrop, back.config.resid_pdrop) == (0.5, 0.25)


def test_dtype_auto_is_the_configurations_and_then_the_files(folder) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"dtype": "bfloat16"}))
    for given in ({}, {"dtype": "auto"}, {"torch_dtype": "auto"}):
        assert GPT2LMHeadModel.from_pretrained(folder, **given).dtype == torch.bfloat16
    del content["dtype"]
    path.write_text(json.dumps(content))
    back = GPT2LMHeadModel.from_pretrained(folder)
    assert (back.dtype, back.config.dtype) == (torch.float32, "float32")
    assert GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64).dtype == torch.float64


def test_variant_subfolder_and_revision_name_the_files(model, tmp_path) -> None:
    model.save_pretrained(tmp_path / "m" / "inner", variant="fp16", max_shard_size=3000)
    back = GPT2LMHeadModel.from_pretrained(tmp_path / "m", subfolder="inner", variant="fp16")
    assert torch.equal(back.lm_head.weight, model.lm_head.weight)
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors"):
        GPT2LMHeadModel.from_pretrained(tmp_path / "m", subfolder="inner")
    with pytest.raises(HubError, match="no subfolder 'outer'"):
        GPT2LMHeadModel.from_pretrained(tmp_path / "m", subfolder="outer")


def test_variants_lie_beside_each_other(model, tmp_path) -> None:
    model.save_pretrained(tmp_path, max_shard_size=3000)
    model.half().save_pretrained(tmp_path, variant="fp16", max_shard_size=3000)
    model.save_pretrained(tmp_path, variant="fp16")
    names = {path.name for path in tmp_path.iterdir()}
    assert {"model.fp16.safetensors", "model.safetensors.index.json"} <= names
    assert not any(name.startswith("model.fp16-") or "index.fp16" in name for name in names)
    assert open_checkpoint(tmp_path, variant="fp16").info("wte.weight").dtype == "F16"
    with pytest.raises(CheckpointError, match=r"variant is '\.\./x'"):
        model.save_pretrained(tmp_path, variant="../x")


def test_bin_files_are_read_on_request_only(folder, model) -> None:
    state = dict(model.state_dict())
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    files = {"pytorch_model-00001-of-00002.bin": names[:9], "pytorch_model-00002-of-00002.bin": names[9:]}
    for file, part in files.items():
        torch.save({name: state[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for given in (None, True):
        with pytest.raises(CheckpointError, match="use_safetensors=False"):
            GPT2LMHeadModel.from_pretrained(folder, use_safetensors=given)
    back = GPT2LMHeadModel.from_pretrained(folder, use_safetensors=False)
    assert torch.equal(back.lm_head.weight, model.lm_head.weight)


def test_use_safetensors_false_is_meant(folder) -> None:
    with pytest.raises(CheckpointError, match=r"expected pytorch_model.bin"):
        GPT2LMHeadModel.from_pretrained(folder, use_safetensors=False)


def test_ignore_mismatched_sizes_draws_what_does_not_fit(folder) -> None:
    sizes = {"n_positions": 5, "vocab_size": 61}
    with pytest.raises(
        CheckpointError, match=r"wpe.weight has the shape \(16, 12\) there and \(5, 12\) here"
    ):
        GPT2LMHeadModel.from_pretrained(folder, **sizes)
    with pytest.warns(UserWarning, match=r"of another shape: transformer.wpe.weight \(16, 12\) there and"):
        back, info = GPT2LMHeadModel.from_pretrained(
            folder, **sizes, ignore_mismatched_sizes=True, output_loading_info=True
        )
    assert back.lm_head.weight.shape == (61, 12)
    assert info["mismatched_keys"] == {
        ("transformer.wpe.weight", (16, 12), (5, 12)),
        ("transformer.wte.weight", (60, 12), (61, 12)),
    }


def test_report_is_one_line_and_only_where_there_is_something_to_say(folder, recwarn) -> None:
    GPT2LMHeadModel.from_pretrained(folder)
    GPT2Model.from_pretrained(folder)
    assert not recwarn.list
    GPT2LMHeadModel.from_pretrained(folder, n_layer=5)
    message = str(recwarn.pop().message)
    assert "\n" not in message
    assert "transformer.h.{2-4}.attn.c_attn.bias" in message
    assert "train before use" in message


def test_state_dict_needs_a_config_and_no_name(folder, model, config) -> None:
    back, info = GPT2LMHeadModel.from_pretrained(
        None, config=config, state_dict=model.state_dict(), output_loading_info=True
    )
    assert torch.equal(back.lm_head.weight, model.lm_head.weight)
    assert back.lm_head.weight.data_ptr() != model.lm_head.weight.data_ptr()
    assert not any(info.values())
    for name, more in ((folder, {"config": config}), (None, {})):
        with pytest.raises(ConfigError, match="state_dict goes with a config"):
            GPT2LMHeadModel.from_pretrained(name, state_dict=model.state_dict(), **more)
    with pytest.raises(ConfigError, match="no model is named"):
        GPT2LMHeadModel.from_pretrained(None, config=config)
    with pytest.raises(CheckpointError, match="is not a plain tensor"):
        GPT2LMHeadModel.from_pretrained(None, config=config, state_dict={"wte.weight": [1.0]})


def test_key_mapping_renames_and_is_judged(folder, model) -> None:
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    back = GPT2LMHeadModel.from_pretrained(
        None, config=model.config, state_dict=state, key_mapping={r"^module\.": ""}
    )
    assert torch.equal(back.lm_head.weight, model.lm_head.weight)
    for bad in ({"(": ""}, {"a": r"\1"}, {"a": 3}):
        with pytest.raises(CheckpointError, match="key_mapping maps regular expressions"):
            GPT2LMHeadModel.from_pretrained(folder, key_mapping=bad)


def test_default_device_is_heeded(folder) -> None:
    with torch.device("cpu"):
        assert GPT2LMHeadModel.from_pretrained(folder).device.type == "cpu"
    with torch.device("meta"):
        with pytest.raises(ConfigError, match="the default device is 'meta', which holds none"):
            GPT2LMHeadModel.from_pretrained(folder)
        assert GPT2LMHeadModel.from_pretrained(folder, device_map="cpu").device.type == "cpu"


def test_options_of_generation_are_kept_and_judged(folder, model) -> None:
    back = GPT2LMHeadModel.from_pretrained(folder)
    assert back.generation_config.eos_token_id == 0
    back.generation_config.max_new_tokens = 7
    back.save_pretrained(folder)
    assert GPT2LMHeadModel.from_pretrained(folder).generation_config.max_new_tokens == 7
    own = GenerationConfig(num_beams=3)
    assert GPT2LMHeadModel.from_pretrained(folder, generation_config=own).generation_config == own
    assert GPT2ForSequenceClassification(back.config).generation_config is None
    before = (folder / "model.safetensors").stat().st_mtime_ns
    back.generation_config.temperature = 0.5  # without do_sample
    with pytest.raises(GenerationError, match="temperature"):
        back.save_pretrained(folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_saving_some_weights_or_none(folder, model, tmp_path) -> None:
    part = {name: value for name, value in model.state_dict().items() if ".h.0." in name}
    model.save_pretrained(tmp_path / "part", state_dict=part)
    assert len(open_checkpoint(tmp_path / "part", allow_missing=True).names()) == 12
    model.save_pretrained(tmp_path / "none", is_main_process=False)
    assert not (tmp_path / "none").exists()
    with pytest.raises(ConfigError, match="safe_serialization=False would write a pickle"):
        model.save_pretrained(tmp_path / "none", safe_serialization=False)
    with pytest.raises(CheckpointError, match="'more' is no weight"):
        model.save_pretrained(tmp_path / "none", state_dict={"more": torch.ones(1)})
    with pytest.raises(ConfigError, match="float64; weights can be written as float32, float16, bfloat16"):
        model.double().save_pretrained(tmp_path / "none")
    assert not (tmp_path / "none").exists()


AUTO = [
    (AutoModel, "GPT2Model"),
    (AutoModelForCausalLM, "GPT2LMHeadModel"),
    (AutoModelForPreTraining, "GPT2LMHeadModel"),
    (AutoModelForSequenceClassification, "GPT2ForSequenceClassification"),
    (AutoModelForTokenClassification, "GPT2ForTokenClassification"),
    (AutoModelForQuestionAnswering, "GPT2ForQuestionAnswering"),
]


@pytest.mark.parametrize(("auto", "name"), AUTO)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_auto_classes_make_the_class_of_their_task(auto, name, folder, config) -> None:
    back, info = auto.from_pretrained(folder, config=config, dtype="bfloat16", output_loading_info=True)
    assert type(back).__name__ == name
    assert back.dtype == torch.bfloat16
    assert not info["unexpected_keys"]
    made = auto.from_config(config, attn_implementation="eager", torch_dtype=torch.float16)
    assert (type(made).__name__, made.dtype, made.config.attn_implementation) == (
        name,
        torch.float16,
        "eager",
    )
    assert config.attn_implementation is None
    with pytest.raises(TypeError, match=f"{auto.__name__} is designed to be instantiated using"):
        auto()


def test_auto_classes_refuse_other_models(folder, tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for auto in (AutoModel, AutoConfig):
        with pytest.raises(ConfigError, match="model_type is 'llama'; allowed: 'gpt2'"):
            auto.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"from_config got a builtins.str"):
        AutoModel.from_config("gpt2")


def test_unused_settings_are_given_back_by_configurations(folder) -> None:
    config, unused = AutoConfig.from_pretrained(folder, n_head=1, bananas=3, return_unused_kwargs=True)
    assert isinstance(config, GPT2Config)
    assert (config.n_head, unused) == (1, {"bananas": 3})
