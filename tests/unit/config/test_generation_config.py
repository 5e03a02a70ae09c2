import json

import pytest

from gpt2kit.config import GenerationConfig, GPT2Config
from gpt2kit.config.generation_fields import CHECKS
from gpt2kit.errors import GenerationError
from gpt2kit.generation.options import merge, resolve

MODEL = GPT2Config(
    vocab_size=50, n_positions=64, n_embd=8, n_layer=1, n_head=1, eos_token_id=0, bos_token_id=0
)


def test_every_field_of_transformers_is_known():
    hf = pytest.importorskip("transformers")
    names = {name for name in vars(hf.GenerationConfig()) if not name.startswith("_")}
    assert names - {"transformers_version"} <= set(CHECKS)


def test_the_defaults_of_transformers_are_all_accepted():
    hf = pytest.importorskip("transformers")
    GenerationConfig(**hf.GenerationConfig._get_default_generation_params())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1.0}, "no generation option 'temprature'; did you mean temperature"),
        ({"xyzzy": 1}, "known options: assistant_confidence"),
        ({"num_beams": 0}, "num_beams must be at least 1"),
        ({"use_cache": 1}, "use_cache must be True or False"),
        ({"streamer": object()}, "pass it to the generating call"),
        ({"temperature": 0.0, "do_sample": True}, "greedy decoding set do_sample=False"),
        ({"temperature": -1}, "temperature must be over 0"),
        ({"temperature": float("nan")}, "temperature must be over 0"),
        ({"temperature": "1"}, "temperature must be a number"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"top_k": 1.5}, "top_k must be an int"),
        ({"top_k": True}, "top_k must be an int"),
        ({"top_p": 1.1}, "top_p must be from 0 to 1"),
        ({"min_p": -0.1}, "min_p must be from 0 to 1"),
        ({"typical_p": 0}, "typical_p must be over 0"),
        ({"epsilon_cutoff": 1.0}, "epsilon_cutoff must be from 0 to below 1"),
        ({"repetition_penalty": 0}, "repetition_penalty must be over 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"max_new_tokens": True}, "max_new_tokens must be an int"),
        ({"max_time": 0}, "max_time must be over 0"),
        ({"do_sample": 1}, "do_sample must be True or False"),
        ({"stop_strings": [""]}, "none empty"),
        ({"stop_strings": 3}, "a string or a list of strings"),
        ({"bad_words_ids": [[]]}, "non-empty lists"),
        ({"bad_words_ids": [[-1]]}, "at least 0"),
        ({"eos_token_id": [1, -1]}, "at least 0"),
        ({"num_return_sequences": 2}, "needs do_sample=True"),
    ],
)
def test_wrong_options_are_refused_with_the_reason(options, message):
    with pytest.raises(GenerationError, match=message):
        GenerationConfig(**options)


def test_setting_a_wrong_attribute_is_refused_too():
    config = GenerationConfig()
    with pytest.raises(GenerationError, match="top_p must be from 0 to 1"):
        config.top_p = 2.0
    with pytest.raises(GenerationError, match="did you mean top_p"):
        config.topp = 0.5


def test_a_file_of_transformers_round_trips(tmp_path):
    hf = pytest.importorskip("transformers")
    hf.GenerationConfig(
        do_sample=True, temperature=0.7, eos_token_id=[1, 2], stop_strings="x", custom_key=3
    ).save_pretrained(tmp_path / "hf")
    config = GenerationConfig.from_file(tmp_path / "hf" / "generation_config.json")
    assert (config.temperature, config.eos_token_id, config.stop_strings) == (0.7, [1, 2], ["x"])
    path = config.save_pretrained(tmp_path / "ours")
    written = json.loads(path.read_text())
    assert written["custom_key"] == 3
    again = hf.GenerationConfig.from_pretrained(tmp_path / "ours")
    assert (again.temperature, again.do_sample, again.custom_key) == (0.7, True, 3)
    assert sorted(p.name for p in path.parent.iterdir()) == ["generation_config.json"]


def test_what_a_file_asks_for_is_refused_when_generating_unless_replaced(tmp_path):
    path = tmp_path / "generation_config.json"
    path.write_text('{"use_mtp": true}')
    model_config = GenerationConfig.for_model(tmp_path)
    with pytest.raises(GenerationError, match="use_mtp=True is not supported"):
        merge({}, None, model_config)
    with pytest.raises(GenerationError, match="use_mtp=True is not supported"):
        merge({}, model_config, None)
    merge({"use_mtp": False}, None, model_config)
    merge({}, GenerationConfig(use_mtp=False), model_config)


def test_a_folder_without_the_file_recommends_nothing(tmp_path):
    assert GenerationConfig.for_model(tmp_path) == GenerationConfig()


@pytest.mark.parametrize("text", ["", "[1]", "{", '"x"', '{"top_k": "many"}', "[" * 100_000])
def test_damaged_files_are_one_error_that_names_the_file(tmp_path, text):
    path = tmp_path / "generation_config.json"
    path.write_text(text)
    with pytest.raises(GenerationError, match=r"generation_config\.json"):
        GenerationConfig.from_file(path)


def test_saving_options_that_have_no_effect_is_refused(tmp_path):
    with pytest.raises(GenerationError, match=r"temperature=0\.7 has no effect: do_sample is not True"):
        GenerationConfig(temperature=0.7).save_pretrained(tmp_path)


def test_equality_and_repr_show_what_is_set():
    assert GenerationConfig(top_k=3) == GenerationConfig(top_k=3)
    assert GenerationConfig(top_k=3) != GenerationConfig(top_k=4)
    assert repr(GenerationConfig(top_k=3)) == "GenerationConfig(top_k=3)"


def test_the_layers_win_in_order():
    merged = merge(
        {"top_k": 1},
        GenerationConfig(top_k=2, top_p=0.2),
        GenerationConfig(top_k=3, top_p=0.3, min_p=0.3, do_sample=True),
        {"top_k": 4, "temperature": 0.4, "do_sample": False},
    )
    assert (merged.top_k, merged.top_p, merged.min_p, merged.temperature) == (1, 0.2, 0.3, 0.4)
    assert merged.do_sample is True


def test_a_length_hides_the_lengths_below_it():
    merged = merge({"max_length": 10}, None, GenerationConfig(max_new_tokens=5), {"max_new_tokens": 7})
    assert (merged.max_length, merged.max_new_tokens) == (10, None)


def test_sampling_defaults_are_not_taken_when_greedy():
    assert (
        merge({"do_sample": False}, None, None, {"do_sample": True, "temperature": 0.7}).temperature is None
    )


def test_sampling_options_of_a_greedy_call_warn():
    with pytest.warns(UserWarning, match=r"temperature=0\.5 has no effect: do_sample is not True"):
        merge({"temperature": 0.5})


def test_sampling_options_of_a_model_file_do_not_warn(recwarn):
    merge({"do_sample": False}, None, GenerationConfig(do_sample=True, temperature=0.5))
    assert len(recwarn) == 0


def test_defaults_are_transformers():
    options = resolve(merge({}), MODEL, [5])
    assert (options.max_new_tokens, options.do_sample, options.eos_token_ids) == ((20,), False, (0,))
    assert resolve(merge({"do_sample": True}), MODEL, [5]).top_k == 50


def test_the_default_length_is_capped_by_n_positions():
    assert resolve(merge({}), MODEL, [60, 1]).max_new_tokens == (4, 20)


@pytest.mark.parametrize(
    ("options", "length", "message"),
    [
        (
            {"max_new_tokens": 10},
            55,
            "prompt has 55 tokens and 10 new ones are asked for, but n_positions is 64",
        ),
        ({"max_new_tokens": 10}, 55, "shorten the prompt to 54 tokens or set max_new_tokens to at most 9"),
        ({}, 64, "n_positions is 64"),
        ({"max_length": 65}, 5, "n_positions is 64"),
        ({"max_length": 5}, 5, "prompt has 5 tokens and max_length is 5"),
        ({"bad_words_ids": [[50]]}, 5, "bad_words_ids holds 50, but the vocabulary has ids 0 to 49"),
    ],
)
def test_what_cannot_be_met_is_refused_before_any_work(options, length, message):
    with pytest.raises(GenerationError, match=message):
        resolve(merge(options), MODEL, [length])


def test_exactly_n_positions_is_allowed():
    assert resolve(merge({"max_new_tokens": 10}), MODEL, [54]).max_new_tokens == (10,)


def test_min_new_tokens_overrides_min_length():
    assert resolve(merge({"min_length": 10}), MODEL, [4, 12]).min_new_tokens == (6, 0)
    assert resolve(merge({"min_length": 10, "min_new_tokens": 2}), MODEL, [4]).min_new_tokens == (2,)


def test_no_end_token_can_be_asked_for():
    assert resolve(merge({"eos_token_id": []}), MODEL, [4]).eos_token_ids == ()
