"""GPT2Config: defaults, second names, checks, files."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2kit.config import PRESETS, AutoConfig, GPT2Config
from gpt2kit.errors import ConfigError, HubError

# As the model page's first checkpoint has it, from before Transformers wrote its version into files.
ORIGINAL_GPT2 = """{
  "activation_function": "gelu_new",
  "architectures": [
    "GPT2LMHeadModel"
  ],
  "attn_pdrop": 0.1,
  "bos_token_id": 50256,
  "embd_pdrop": 0.1,
  "eos_token_id": 50256,
  "initializer_range": 0.02,
  "layer_norm_epsilon": 1e-05,
  "model_type": "gpt2",
  "n_ctx": 1024,
  "n_embd": 768,
  "n_head": 12,
  "n_layer": 12,
  "n_positions": 1024,
  "resid_pdrop": 0.1,
  "summary_activation": null,
  "summary_first_dropout": 0.1,
  "summary_proj_to_labels": true,
  "summary_type": "cls_index",
  "summary_use_proj": true,
  "task_specific_params": {
    "text-generation": {
      "do_sample": true,
      "max_length": 50
    }
  },
  "vocab_size": 50257
}
"""
# As Transformers 4 wrote a fine-tuned model.
TRANSFORMERS_4 = """{
  "_name_or_path": "gpt2",
  "activation_function": "gelu_new",
  "architectures": [
    "GPT2ForSequenceClassification"
  ],
  "attn_pdrop": 0.1,
  "bos_token_id": 50256,
  "embd_pdrop": 0.1,
  "eos_token_id": 50256,
  "gradient_checkpointing": false,
  "id2label": {
    "0": "neg",
    "1": "pos",
    "2": "other",
    "10": "ten"
  },
  "initializer_range": 0.02,
  "label2id": {
    "neg": 0,
    "other": 2,
    "pos": 1,
    "ten": 10
  },
  "layer_norm_epsilon": 1e-05,
  "model_type": "gpt2",
  "n_ctx": 1024,
  "n_embd": 768,
  "n_head": 12,
  "n_inner": null,
  "n_layer": 12,
  "n_positions": 1024,
  "pad_token_id": 50256,
  "problem_type": "single_label_classification",
  "reorder_and_upcast_attn": false,
  "resid_pdrop": 0.1,
  "scale_attn_by_inverse_layer_idx": false,
  "scale_attn_weights": true,
  "summary_activation": null,
  "summary_first_dropout": 0.1,
  "summary_proj_to_labels": true,
  "summary_type": "cls_index",
  "summary_use_proj": true,
  "torch_dtype": "float16",
  "transformers_version": "4.28.1",
  "use_cache": true,
  "vocab_size": 50257
}
"""


def from_text(text: str | bytes, folder: Path) -> GPT2Config:
    (folder / "config.json").write_bytes(text.encode() if isinstance(text, str) else text)
    return GPT2Config.from_pretrained(folder)


def test_defaults_are_those_of_gpt2() -> None:
    config = GPT2Config()
    assert (config.vocab_size, config.n_positions, config.n_embd, config.n_layer, config.n_head) == (
        50257, 1024, 768, 12, 12,
    )  # fmt: skip
    assert (config.n_inner, config.activation_function, config.layer_norm_epsilon) == (None, "gelu_new", 1e-5)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (50256, 50256, None)
    assert (config.summary_type, config.num_labels, config.use_return_dict) == ("cls_index", 2, True)
    assert config.tie_word_embeddings
    assert GPT2Config.keys_to_ignore_at_inference == ("past_key_values",)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("gpt2", 124439808), ("gpt2-medium", 354823168), ("gpt2-large", 774030080), ("gpt2-xl", 1557611200)],
)
def test_presets_have_the_published_sizes(name: str, parameters: int) -> None:
    assert GPT2Config.preset(name).num_parameters() == parameters
    assert GPT2Config.preset(f"openai-community/{name}") == GPT2Config.preset(name)


def test_preset_takes_changes_under_both_names() -> None:
    config = GPT2Config.preset("gpt2-medium", num_hidden_layers=3, n_positions=64)
    assert (config.n_layer, config.n_positions, config.n_embd) == (3, 64, 1024)
    with pytest.raises(ConfigError, match="allowed: " + ", ".join(PRESETS)):
        GPT2Config.preset("gpt3")


@pytest.mark.parametrize(("alias", "name"), list(GPT2Config.attribute_map.items()))
def test_second_names_work_in_both_directions(alias: str, name: str) -> None:
    config = GPT2Config(**{alias: 24})
    assert getattr(config, name) == getattr(config, alias) == 24
    setattr(config, alias, 48)
    assert getattr(config, name) == 48
    setattr(config, name, 36)
    assert getattr(config, alias) == 36
    assert alias not in config.to_dict()
    with pytest.raises(ConfigError, match="two names of one setting"):
        GPT2Config(**{alias: 24, name: 12})


def test_labels_follow_their_number_and_the_number_follows_the_labels() -> None:
    config = GPT2Config(num_labels=3)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    config.num_labels = 1
    assert config.id2label == {0: "LABEL_0"}
    config = GPT2Config(id2label={"0": "no", "1": "yes"}, label2id={"no": 0, "yes": 1})
    assert config.id2label == {0: "no", 1: "yes"}
    assert config.num_labels == 2
    config.num_labels = 2  # already so: names are kept
    assert config.id2label == {0: "no", 1: "yes"}


def test_file_of_a_classifier_can_be_opened_for_other_labels(tmp_path: Path) -> None:
    from_text(TRANSFORMERS_4, tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, num_labels=7)
    assert config.num_labels == len(config.id2label) == len(config.label2id) == 7


def test_dtype_is_a_name_under_both_names() -> None:
    config = GPT2Config(torch_dtype="float16")
    assert config.dtype == config.torch_dtype == "float16"
    config.torch_dtype = "torch.bfloat16"
    assert config.dtype == "bfloat16"
    assert GPT2Config(dtype="float32", torch_dtype="float16").dtype == "float32"


def test_generation_settings_are_dropped_on_the_way_in_and_refused_on_the_way_out(tmp_path: Path) -> None:
    config = GPT2Config(do_sample=True, max_length=50, top_k=3)
    assert not hasattr(config, "do_sample")
    config.top_k = 3
    with pytest.raises(ConfigError, match="top_k: these are settings of generation"):
        config.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unknown_settings_become_attributes_and_are_written_back() -> None:
    config = GPT2Config(n_ctx=1024, task_specific_params={"a": {"do_sample": True}}, ratio=float("inf"))
    assert config.n_ctx == 1024
    again = json.loads(config.to_json_string())
    assert again["task_specific_params"] == {"a": {"do_sample": True}}
    assert again["ratio"] == {"__float__": "Infinity"}


def test_settings_that_name_code_are_dropped_at_any_depth(tmp_path: Path) -> None:
    hostile = {
        "auto_map": {"AutoModel": "evil--model.Evil"},
        "trust_remote_code": True,
        "_attn_implementation": "evil/kernel",
        "_attn_implementation_internal": "evil/kernel",
        "attn_implementation": "evil/kernel",
        "experts_implementation": "evil/kernel",
        "kernels": ["evil/kernel"],
        "configuration_files": ["../../etc/passwd"],
        "transformers_weights": "../../weights.bin",
        "custom_generate": "evil/generate",
        "harmless": {"auto_map": 1, "kept": [{"trust_remote_code": True, "also_kept": 2}]},
    }
    config = from_text(json.dumps(hostile), tmp_path)
    assert config.attn_implementation is None
    assert config.harmless == {"kept": [{"also_kept": 2}]}
    text = config.to_json_string()
    assert "evil" not in text
    assert "etc" not in text
    assert not any(hasattr(config, name) for name in ("auto_map", "kernels", "configuration_files"))


def test_backend_can_be_chosen_by_the_caller_but_not_fetched() -> None:
    assert GPT2Config(attn_implementation="eager").attn_implementation == "eager"
    with pytest.raises(ConfigError, match="not fetched"):
        GPT2Config(attn_implementation="someone/kernel")


def test_output_attentions_goes_with_every_backend() -> None:
    config = GPT2Config(output_attentions=True, attn_implementation="sdpa")
    assert config.output_attentions and config.attn_implementation == "sdpa"
    assert GPT2Config(output_attentions=True).attn_implementation is None


@pytest.mark.parametrize("text", [ORIGINAL_GPT2, TRANSFORMERS_4], ids=["original", "transformers_4"])
def test_older_files_come_back_byte_for_byte(text: str, tmp_path: Path) -> None:
    config = from_text(text, tmp_path)
    config.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_text() == text


def test_changes_to_an_older_file_are_written_under_its_names(tmp_path: Path) -> None:
    config = from_text(TRANSFORMERS_4, tmp_path)
    config.dtype = "float32"
    config.n_positions = 2048
    config.add_cross_attention = True
    before, after = json.loads(TRANSFORMERS_4), json.loads(config.to_json_string())
    assert {k: v for k, v in after.items() if before.get(k) != v} == {
        "torch_dtype": "float32",
        "n_positions": 2048,
        "add_cross_attention": True,
    }


def test_file_with_second_names_keeps_them(tmp_path: Path) -> None:
    config = from_text('{"hidden_size": 24, "model_type": "gpt2"}', tmp_path)
    assert json.loads(config.to_json_string()) == {"hidden_size": 24, "model_type": "gpt2"}


def test_missing_and_wrong_places_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json does not exist"):
        GPT2Config.from_pretrained(tmp_path)
    with pytest.raises(HubError, match="neither a folder"):
        GPT2Config.from_pretrained("./no/such/folder")
    (tmp_path / "file").write_text("{}")
    with pytest.raises(ConfigError, match="is a file"):
        GPT2Config().save_pretrained(tmp_path / "file")
    assert GPT2Config.from_pretrained(tmp_path / "file").n_embd == 768


def test_changes_on_loading(tmp_path: Path) -> None:
    from_text(ORIGINAL_GPT2, tmp_path)
    config = GPT2Config.from_pretrained(tmp_path, n_layer=3, n_ctx=7, hidden_size=24, torch_dtype="auto")
    assert (config.n_layer, config.n_ctx, config.n_embd, config.dtype) == (3, 7, 24, None)
    config, unused = GPT2Config.from_pretrained(tmp_path, n_layer=3, n_layers=5, return_unused_kwargs=True)
    assert unused == {"n_layers": 5}
    with pytest.raises(ConfigError, match="n_layers: no such setting"):
        GPT2Config.from_pretrained(tmp_path, n_layers=5)
    given = {"n_embd": 24}
    assert GPT2Config.from_dict(given, n_layer=1).n_layer == 1
    assert given == {"n_embd": 24}


def test_other_models_are_refused(tmp_path: Path) -> None:
    for load in (AutoConfig.from_pretrained, GPT2Config.from_pretrained):
        with pytest.raises(ConfigError, match="model_type is 'llama'"):
            (tmp_path / "config.json").write_text('{"model_type": "llama"}')
            load(tmp_path)
    assert AutoConfig.for_model("gpt2", n_layer=1).n_layer == 1
    with pytest.raises(ConfigError, match="'opt'"):
        AutoConfig.for_model("opt")
    with pytest.raises(TypeError, match="from_pretrained"):
        AutoConfig()


def test_copies_and_comparison() -> None:
    config = GPT2Config(n_layer=2, extra=[1])
    for twin in (copy.deepcopy(config), copy.copy(config), pickle.loads(pickle.dumps(config))):
        assert twin == config
        assert twin.hidden_size == 768
    twin = copy.deepcopy(config)
    twin.extra.append(2)
    assert twin != config
    assert GPT2Config.from_dict(config.to_dict()) == config
    assert config.get_text_config(decoder=True) is config
    assert "n_layer" in config
    assert config != "n_layer"


def test_update_checks_like_assignment() -> None:
    config = GPT2Config()
    config.update({"hidden_size": 24, "n_ctx": 9})
    assert (config.n_embd, config.n_ctx) == (24, 9)
    with pytest.raises(ConfigError, match="n_layer is 'many'"):
        config.update({"n_layer": "many"})
    with pytest.raises(ConfigError, match="name of a method"):
        config.to_dict = 3
    with pytest.raises(ConfigError, match="computed"):
        config.use_return_dict = False
    with pytest.raises(AttributeError, match="no setting 'n_layers'"):
        config.n_layers  # noqa: B018


def test_contradictions_are_found_when_saving(tmp_path: Path) -> None:
    config = GPT2Config()
    config.n_head = 7
    with pytest.raises(ConfigError, match="must be a multiple"):
        config.save_pretrained(tmp_path)


def test_every_setting_can_be_written(tmp_path: Path) -> None:
    GPT2Config(pad_token_id=3).to_json_file(tmp_path / "all.json", use_diff=False)
    text = (tmp_path / "all.json").read_text()
    assert json.loads(text)["output_hidden_states"] is False
    assert GPT2Config.from_json_file(tmp_path / "all.json") == GPT2Config(
        pad_token_id=3, transformers_version=json.loads(text)["transformers_version"]
    )
    config = GPT2Config(thing=object())
    with pytest.raises(ConfigError, match="cannot be written as JSON"):
        config.to_json_string()


def test_importing_the_configuration_loads_nothing_large() -> None:
    code = (
        "import sys, gpt2kit.config; gpt2kit.config.GPT2Config(); "
        "print([m for m in ('numpy', 'torch', 'huggingface_hub', 'json') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
