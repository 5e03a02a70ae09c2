import copy
import json
import pickle
import random

import pytest

from gpt2kit.config import (
    CompileConfig,
    GenerationConfig,
    GPT2Config,
    SynthIDTextWatermarkingConfig,
    WatermarkingConfig,
)
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
        ({"top_k": 2**31}, r"top_k must be at most 2\*\*31 - 1"),
        ({"temperature": 1e-320, "do_sample": True}, "temperature must be over 0 in 32-bit floating point"),
        ({"repetition_penalty": 1e300}, "repetition_penalty must be within 32-bit floating point"),
        ({"sequence_bias": {(1,): 1e300}}, "must be a 32-bit number below infinity"),
        ({"watermarking_config": {"bias": 1e300}}, "`bias` should be a finite 32-bit number"),
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
        ({"num_return_sequences": 3, "num_beams": 2}, "has to be smaller or equal to `num_beams`"),
        ({"suppress_tokens": [3, 4], "forced_eos_token_id": [3, 4]}, "Every token in `forced_eos_token_id`"),
        ({"suppress_tokens": [3], "forced_bos_token_id": 3}, "Every token in `forced_bos_token_id`"),
        ({"suppress_tokens": 3}, "suppress_tokens must be a list of token ids"),
        ({"begin_suppress_tokens": ["a"]}, "begin_suppress_tokens must be an int"),
        ({"early_stopping": "always"}, "early_stopping must be True or False or 'never'"),
        ({"length_penalty": float("nan")}, "length_penalty must be a finite number"),
        ({"guidance_scale": float("inf")}, "guidance_scale must be a finite number"),
        ({"diversity_penalty": -1.0}, "diversity_penalty must be at least 0"),
        ({"penalty_alpha": 1.5}, "penalty_alpha must be from 0 to 1"),
        ({"top_h": 0.0}, "top_h must be over 0 and at most 1"),
        ({"cache_implementation": "fast"}, "cache_implementation must be 'dynamic' or 'static'"),
        ({"cache_config": 3}, "cache_config must be a dict"),
        ({"compile_config": {}}, "compile_config must be a CompileConfig"),
        ({"exponential_decay_length_penalty": 3}, "must be a pair"),
        (
            {"exponential_decay_length_penalty": (1.5, 2.0)},
            "the start of exponential_decay_length_penalty must",
        ),
        (
            {"exponential_decay_length_penalty": (1, -2.0)},
            "the factor of exponential_decay_length_penalty must",
        ),
        ({"sequence_bias": {}}, "`sequence_bias` has to be a non-empty dictionary"),
        ({"sequence_bias": {(): 1.0}}, "non-empty tuples of token ids"),
        ({"sequence_bias": {(1, -2): 1.0}}, "sequence_bias must be at least 0"),
        (
            {"sequence_bias": {(1,): float("nan")}},
            "a bias of sequence_bias must be a 32-bit number below infinity",
        ),
        ({"sequence_bias": {(1,): "1"}}, "a bias of sequence_bias must be a number"),
        ({"sequence_bias": {"__import__('os')": 1.0}}, "non-empty tuples of token ids"),
        ({"sequence_bias": [[1, 2, 3]]}, "must hold pairs"),
        ({"watermarking_config": 3}, "watermarking_config must be a WatermarkingConfig"),
        ({"watermarking_config": {"ratio": 1}}, "watermarking_config: .*ratio"),
        ({"watermarking_config": {"greenlist_ratio": 1.0}}, "`greenlist_ratio` should be between 0 and 1"),
        ({"watermarking_config": {"seeding_scheme": "x"}}, "`seeding_scheme` should be 'lefthash' or"),
        ({"watermarking_config": {"context_width": 0}}, "`context_width` should be a positive int"),
        ({"watermarking_config": {"hashing_key": "k"}}, "`hashing_key` should be an int"),
        ({"watermarking_config": {"bias": float("inf")}}, "`bias` should be a finite 32-bit number"),
        (
            {"watermarking_config": {"ngram_len": 1, "keys": [1]}},
            "`ngram_len` should be an int of at least 2",
        ),
        ({"watermarking_config": {"ngram_len": 2, "keys": []}}, "`keys` should be a list of ints"),
        ({"watermarking_config": {"ngram_len": 2, "keys": [2**70]}}, "ints of 64 bits"),
        (
            {"watermarking_config": {"ngram_len": 2, "keys": [1], "sampling_table_size": 2**24 + 1}},
            "`sampling_table_size` should be",
        ),
        ({"force_words_ids": []}, "force_words_ids must be a non-empty list"),
        ({"force_words_ids": [[[1], []]]}, "non-empty lists of token ids"),
        ({"dola_layers": "middle"}, "dola_layers must be 'low' or 'high'"),
        ({"num_assistant_tokens_schedule": "x"}, "num_assistant_tokens_schedule must be 'constant' or"),
        ({"assistant_ensemble_weight": 1.0}, "assistant_ensemble_weight must be between 0 and 1"),
        ({"long_generation": "crash"}, "long_generation must be 'slide'"),
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
        ({"sequence_bias": {(1, 51): 1.0}}, 5, "sequence_bias holds 51, but the vocabulary"),
        ({"forced_bos_token_id": 50}, 5, "forced_bos_token_id holds 50, but the vocabulary"),
        ({"forced_eos_token_id": [1, 50]}, 5, "forced_eos_token_id holds 50, but the vocabulary"),
        ({"suppress_tokens": [60]}, 5, "suppress_tokens holds 60, but the vocabulary"),
        ({"begin_suppress_tokens": [60]}, 5, "begin_suppress_tokens holds 60, but the vocabulary"),
        (
            {"exponential_decay_length_penalty": (1, 1.1), "eos_token_id": []},
            5,
            "exponential_decay_length_penalty raises the scores of end tokens and there is none",
        ),
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


def random_config(rng):
    """Options of every kind, each with a value other than its default; half of them."""
    options = {
        "max_new_tokens": 7, "min_length": 2, "max_time": 1.5, "stop_strings": ["x"], "do_sample": True,
        "num_beams": 4, "early_stopping": "never", "use_cache": True, "cache_implementation": "static",
        "cache_config": {"nbits": 4}, "temperature": 0.7, "top_k": 9, "top_p": 0.9, "min_p": 0.1, "top_h": 0.4,
        "typical_p": 0.8, "epsilon_cutoff": 0.01, "eta_cutoff": 0.01, "repetition_penalty": 1.2,
        "encoder_repetition_penalty": 1.1, "length_penalty": -0.5, "no_repeat_ngram_size": 3,
        "bad_words_ids": [[1, 2]], "renormalize_logits": True, "forced_bos_token_id": 3,
        "forced_eos_token_id": [4, 5], "remove_invalid_values": True,
        "exponential_decay_length_penalty": (3, 1.1), "suppress_tokens": [6], "begin_suppress_tokens": [7],
        "sequence_bias": [[[1, 2], float("-inf")]], "token_healing": True, "guidance_scale": 1.5,
        "num_return_sequences": 2, "output_scores": True, "output_logits": True,
        "return_dict_in_generate": True, "pad_token_id": 8, "bos_token_id": 9, "eos_token_id": [10, 11],
        "encoder_no_repeat_ngram_size": 2, "num_assistant_tokens": 6,
        "num_assistant_tokens_schedule": "heuristic", "assistant_confidence_threshold": 0.3,
        "prompt_lookup_num_tokens": 5, "max_matching_ngram_size": 3, "penalty_alpha": 0.6,
        "dola_layers": "low",
    }  # fmt: skip
    options = {name: value for name, value in options.items() if rng.random() < 0.5}
    has_beams = options.get("num_beams", 1) > 1
    if not options.get("do_sample") and not has_beams:
        options.pop("num_return_sequences", None)
    return options


def test_files_of_both_hold_the_same_and_are_read_by_both(tmp_path):
    hf = pytest.importorskip("transformers")
    rng = random.Random(3)
    for index in range(60):
        options = random_config(rng)
        mine, theirs = GenerationConfig(**options), hf.GenerationConfig(**options)
        if not mine.without_effect():
            mine.save_pretrained(tmp_path / f"mine{index}")
            theirs.save_pretrained(tmp_path / f"theirs{index}")
            texts = [
                json.loads((tmp_path / f"{name}{index}" / "generation_config.json").read_text())
                for name in ("mine", "theirs")
            ]
            assert texts[0] == texts[1]
            assert hf.GenerationConfig.from_pretrained(tmp_path / f"mine{index}") == theirs
            assert GenerationConfig.from_pretrained(tmp_path / f"theirs{index}") == mine
        assert json.loads(mine.to_json_string()) == json.loads(theirs.to_json_string())
        full = json.loads(theirs.to_json_string(use_diff=False))
        assert json.loads(mine.to_json_string(use_diff=False)) == full | {"long_generation": None}


def test_objects_are_written_as_transformers_writes_them(tmp_path):
    hf = pytest.importorskip("transformers")
    watermark = {"greenlist_ratio": 0.3, "bias": 1.5, "seeding_scheme": "selfhash"}
    options = {"sequence_bias": {(1, 2): 0.5, (3,): -1.0}}
    mine = GenerationConfig(
        **options, watermarking_config=WatermarkingConfig(**watermark), compile_config=CompileConfig(mode="x")
    )
    theirs = hf.GenerationConfig(
        **options,
        watermarking_config=hf.WatermarkingConfig(**watermark),
        compile_config=hf.CompileConfig(mode="x"),
    )
    mine.save_pretrained(tmp_path / "mine")
    theirs.save_pretrained(tmp_path / "theirs")
    mine_file = tmp_path / "mine" / "generation_config.json"
    # Transformers writes objects within a file only where their class has to_dict, as this one has.
    assert json.loads(mine_file.read_text()) == json.loads(
        (tmp_path / "theirs" / "generation_config.json").read_text()
    )
    again = GenerationConfig.from_file(mine_file)
    assert (again.sequence_bias, again.watermarking_config) == (mine.sequence_bias, mine.watermarking_config)
    assert again.compile_config is None


def test_a_synthid_watermark_survives_its_file(tmp_path):
    config = GenerationConfig(watermarking_config={"ngram_len": 5, "keys": [1, 2]})
    assert isinstance(config.watermarking_config, SynthIDTextWatermarkingConfig)
    config.save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path) == config


def test_update_returns_what_is_no_option():
    config = GenerationConfig(top_k=3)
    assert config.update(top_k=5, foo=1) == {"foo": 1}
    assert config.update(defaults_only=True, top_k=7, top_p=0.5) == {"top_k": 7}
    assert (config.top_k, config.top_p) == (5, 0.5)
    assert config.update(allow_custom_entries=True, foo=1) == {}
    assert config.foo == 1 and config.to_dict()["foo"] == 1
    with pytest.raises(GenerationError, match="needs do_sample=True or beams"):
        config.update(num_return_sequences=2)


def test_unused_keywords_are_returned_or_refused(tmp_path):
    GenerationConfig(do_sample=True, top_k=3).save_pretrained(tmp_path)
    config, unused = GenerationConfig.from_pretrained(tmp_path, top_k=1, foo=False, return_unused_kwargs=True)
    assert (config.top_k, config.do_sample, unused) == (1, True, {"foo": False})
    with pytest.raises(GenerationError, match="no generation option 'foo'"):
        GenerationConfig.from_pretrained(tmp_path, foo=False)


def test_the_options_of_a_model_configuration_are_those_transformers_takes():
    hf = pytest.importorskip("transformers")
    for settings in ({}, {"pad_token_id": 3, "eos_token_id": 4, "use_cache": False}):
        theirs = hf.GenerationConfig.from_model_config(hf.GPT2Config(**settings))
        mine = GenerationConfig.from_model_config(GPT2Config(**settings))
        assert mine.to_diff_dict() == theirs.to_diff_dict()
    asked = GenerationConfig.from_model_config({"output_scores": True, "n_embd": 4})
    assert asked.return_dict_in_generate is True


def test_a_config_is_saved_as_it_was_read_even_with_options_without_effect(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.5, "_from_model_config": true}')
    config = GenerationConfig.from_pretrained(tmp_path)
    config.save_pretrained(tmp_path / "again")
    config.top_k = 7
    with pytest.raises(GenerationError, match="has no effect"):
        config.save_pretrained(tmp_path / "changed")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"temperature": 0.5}, "temperature"),
        ({"min_p": 0.5}, "min_p"),
        ({"top_h": 0.5}, "top_h"),
        ({"early_stopping": True}, "early_stopping"),
        ({"length_penalty": 2.0, "num_beams": 1}, "length_penalty"),
        ({"use_cache": False, "cache_implementation": "static"}, "cache_implementation"),
        ({"use_cache": False, "cache_config": {}}, "cache_config"),
        ({"max_cache_len": 9}, "max_cache_len"),
        ({"output_scores": True}, "output_scores"),
        ({"output_attentions": True}, "output_attentions"),
    ],
)
def test_saving_is_strict_about_what_has_no_effect(tmp_path, options, name):
    config = GenerationConfig(**options)
    assert list(config.without_effect()) == [name]
    with pytest.raises(GenerationError, match=rf"GenerationConfig is invalid: {name}=.* has no effect"):
        config.save_pretrained(tmp_path)


def test_top_k_of_contrastive_search_has_its_effect():
    assert GenerationConfig(top_k=4, penalty_alpha=0.6).without_effect() == {}


def test_configurations_are_copied_and_pickled():
    config = GenerationConfig(top_k=3, watermarking_config={})
    assert copy.deepcopy(config) == config == pickle.loads(pickle.dumps(config))
    with pytest.raises(AttributeError, match="no field 'foo'"):
        _ = config.foo


STRANGE = [
    True, False, 0, 1, -1, 2**70, 1.5, float("nan"), float("inf"), -float("inf"), "", "x", "never", b"x", [], [[]],
    [1], [-1], [[1]], [[-1]], [[1, 2.0]], [[[1], 2]], [[[1], "a"]], ["a"], [None], {}, {"a": 1}, {(1,): 1.0}, {1: 2},
    {"(1, 2)": 1}, {"keys": 1}, {"keys": [1], "ngram_len": 2}, (), (1, 2.0), ("a", 1), object(), print,
]  # fmt: skip


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_any_value_is_taken_whole_or_refused_with_the_field_s_name(name):
    for value in STRANGE:
        config = GenerationConfig()
        try:
            setattr(config, name, value)
        except GenerationError as error:
            assert name in str(error)
        else:
            config.to_dict()
            config.without_effect()
            try:
                config.validate()
                resolve(merge({}, config), MODEL, [4])
            except GenerationError:
                pass
