import itertools
import threading
import warnings

import numpy as np
import pytest

from fakes import FakeEngine, FakeTokenizer, ScriptedEngine
from gpt2kit.config import GenerationConfig, GPT2Config
from gpt2kit.errors import GenerationError, PipelineError
from gpt2kit.generation import generate
from gpt2kit.pipelines import ReturnType, TextGenerationPipeline, TextIteratorStreamer, TextStreamer

GREEDY = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": []}
PROMPTS = ["once upon", "a", "the end."]


def make_pipe(engine=None, **options):
    return TextGenerationPipeline(engine or FakeEngine(), FakeTokenizer(), **options)


def scripted(text, prompt="a"):
    """A pipeline that always says `text` after `prompt`."""
    tokenizer = FakeTokenizer()
    config = GPT2Config(vocab_size=50, n_positions=256, n_embd=8, n_layer=1, n_head=1, eos_token_id=0)
    engine = ScriptedEngine([0] * len(prompt) + tokenizer.encode(text) + [0] * 256, config=config)
    return make_pipe(engine, do_sample=False, max_new_tokens=len(tokenizer.encode(text)) + 1)


def new_text(prompt, **options):
    (row,) = generate(FakeEngine(), [FakeTokenizer().encode(prompt)], **{**GREEDY, **options})
    return FakeTokenizer().decode(row.ids, skip_special_tokens=True)


def test_a_string_gives_a_list_of_records():
    assert make_pipe()("once upon", **GREEDY) == [{"generated_text": "once upon" + new_text("once upon")}]


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_gives_a_list_of_lists_without_any_padding_token(kind):
    result = make_pipe()(kind(PROMPTS), **GREEDY)
    assert result == [[{"generated_text": prompt + new_text(prompt)}] for prompt in PROMPTS]


def test_an_empty_list_gives_an_empty_list():
    assert make_pipe()([]) == []


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_generator_gives_an_iterator_that_reads_only_what_it_needs(batch_size):
    taken = []

    def prompts():
        for prompt in itertools.cycle(PROMPTS):
            taken.append(prompt)
            yield prompt

    results = make_pipe(batch_size=batch_size)(prompts(), **GREEDY)
    assert taken == []
    assert next(results) == [{"generated_text": PROMPTS[0] + new_text(PROMPTS[0])}]
    assert len(taken) == batch_size


def test_a_generator_s_last_incomplete_batch_is_not_lost():
    results = list(make_pipe()((p for p in PROMPTS), batch_size=2, **GREEDY))
    assert [r[0]["generated_text"] for r in results] == [p + new_text(p) for p in PROMPTS]


def test_only_new_text_or_ids_can_be_returned():
    pipe = make_pipe()
    assert pipe("a", return_full_text=False, **GREEDY) == [{"generated_text": new_text("a")}]
    assert pipe("a", return_type=ReturnType.NEW_TEXT, **GREEDY) == [{"generated_text": new_text("a")}]
    assert pipe("a", return_text=True, **GREEDY) == [{"generated_text": "a" + new_text("a")}]
    (record,) = pipe("a", return_tensors=True, **GREEDY)
    assert FakeTokenizer().decode(record["generated_token_ids"], skip_special_tokens=True) == "a" + new_text(
        "a"
    )


def test_num_return_sequences_gives_that_many_records_a_prompt():
    result = make_pipe()(PROMPTS, num_return_sequences=3, seed=1, max_new_tokens=9)
    assert [len(records) for records in result] == [3, 3, 3]
    assert len({record["generated_text"] for record in result[0]}) > 1


def test_a_seed_gives_the_same_text_alone_and_in_a_batch():
    pipe = make_pipe(seed=3, max_new_tokens=20)
    assert pipe(PROMPTS) == [pipe(prompt) for prompt in PROMPTS]


def test_defaults_are_256_sampled_tokens_at_temperature_0_7_as_far_as_there_is_room():
    engine = FakeEngine(config=GPT2Config(vocab_size=50, n_positions=300, n_embd=8, n_layer=1, n_head=1))
    (row,) = make_pipe(engine, eos_token_id=[], seed=2).generate(["ab"])
    options = {"do_sample": True, "temperature": 0.7, "top_k": 50, "max_new_tokens": 256, "eos_token_id": []}
    (expected,) = generate(engine, [FakeTokenizer().encode("ab")], seed=2, **options)
    assert row.ids == expected.ids
    (short,) = make_pipe(FakeEngine(), eos_token_id=[]).generate(["ab"])
    assert len(short.ids) == 62


def test_the_model_s_own_options_win_over_the_defaults():
    engine = FakeEngine()
    engine.generation_config = GenerationConfig(do_sample=False, max_new_tokens=3, eos_token_id=[])
    assert make_pipe(engine)("a") == [{"generated_text": "a" + new_text("a", max_new_tokens=3)}]
    assert make_pipe(engine)("a", max_new_tokens=5) == [
        {"generated_text": "a" + new_text("a", max_new_tokens=5)}
    ]


def test_options_of_the_pipeline_hold_for_every_call_unless_it_says_otherwise():
    pipe = make_pipe(**GREEDY, return_full_text=False)
    assert pipe("a") == [{"generated_text": new_text("a")}]
    assert pipe("a", max_new_tokens=2) == [{"generated_text": new_text("a", max_new_tokens=2)}]
    assert pipe("a", max_length=3) == [{"generated_text": new_text("a", max_new_tokens=2)}]


def test_a_generation_config_of_the_call_replaces_the_pipeline_s_options():
    pipe = make_pipe(max_new_tokens=2, do_sample=True, temperature=3.0)
    config = GenerationConfig(do_sample=False, max_new_tokens=4, eos_token_id=[])
    assert pipe("a", generation_config=config) == [{"generated_text": "a" + new_text("a", max_new_tokens=4)}]


def test_the_prefix_is_read_and_not_returned():
    assert make_pipe()("b", prefix="a ", **GREEDY) == [{"generated_text": "b" + new_text("a b")}]


def test_a_total_length_is_meant_without_the_prefix():
    options = {"do_sample": False, "eos_token_id": [], "return_tensors": True, "max_length": 5}
    (record,) = make_pipe()("ab", prefix="xyz", **options)
    assert len(record["generated_token_ids"]) == 5 + 3


def test_hole_drops_the_left_of_a_prompt_that_is_too_long():
    text = "abcdefghij" * 7
    options = {**GREEDY, "handle_long_generation": "hole", "max_new_tokens": 10}
    assert make_pipe()(text, **options) == [
        {"generated_text": text + new_text(text[-54:], max_new_tokens=10)}
    ]


@pytest.mark.parametrize("options", [{}, {"handle_long_generation": "hole", "max_new_tokens": 64}])
def test_a_prompt_that_is_too_long_is_one_clear_error(options):
    with pytest.raises(GenerationError, match="n_positions is 64"):
        make_pipe()("a" * 64, **options)


def test_truncation_shortens_the_prompt():
    (record,) = make_pipe()("a" * 100, truncation=True, max_new_tokens=2, max_length=50, return_tensors=True)
    assert len(record["generated_token_ids"]) == 52


def test_tokenizer_options_reach_the_tokenizer():
    pipe = make_pipe()
    pipe("a", add_special_tokens=False, tokenizer_encode_kwargs={"x": 1}, **GREEDY)
    assert pipe.tokenizer.last_options == {"add_special_tokens": False, "x": 1}


def test_a_stop_sequence_is_kept_as_in_transformers_or_trimmed():
    pipe = scripted("one. two. three")
    assert pipe("a", stop_sequence=". t")[0]["generated_text"] == "aone. t"
    assert pipe("a", stop_strings=[". t"])[0]["generated_text"] == "aone. t"
    assert pipe("a", stop_sequence=". t", trim_stop_strings=True)[0]["generated_text"] == "aone"


def test_the_end_token_is_not_part_of_the_text_unless_asked_for():
    pipe = scripted("bc")
    assert pipe("a")[0]["generated_text"] == "abc"
    assert pipe("a", skip_special_tokens=False)[0]["generated_text"] == "abc<end>"


def test_generate_tells_why_each_row_ended():
    rows = scripted("bc. d").generate(["a"], stop_strings=".")
    assert [(r.text, r.finish_reason, r.stop_string) for r in rows] == [("bc.", "stop", ".")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1}, "did you mean temperature"),
        ({"return_ful_text": True}, "did you mean return_full_text"),
        ({"return_full_text": True, "return_tensors": True}, "exclude each other"),
        ({"return_full_text": True, "return_text": True}, "exclude each other"),
        ({"return_text": True, "return_tensors": True}, "exclude each other"),
        ({"return_type": 1}, "must be a ReturnType"),
        ({"handle_long_generation": "slide"}, "must be None or 'hole'"),
        ({"padding": "max_length"}, "rows are never padded"),
        ({"num_workers": -1}, "num_workers must be an int of at least 0"),
        ({"continue_final_message": "yes"}, "continue_final_message must be True, False or None"),
        ({"use_mtp": True}, "GPT-2 has no multi-token prediction"),
        ({"batch_size": 0}, "batch_size must be an int of at least 1"),
        ({"prefix": 3}, "prefix must be a string"),
        ({"streamer": print}, "must have the methods put"),
        ({"temperature": -1.0}, "temperature must be over 0"),
    ],
)
def test_wrong_options_are_refused_by_the_call_and_by_the_pipeline(options, message):
    engine = FakeEngine()
    with pytest.raises(GenerationError, match=message):
        make_pipe(engine)("a", **options)
    with pytest.raises(GenerationError, match=message):
        make_pipe(engine, **options)
    assert engine.batch_sizes == []


@pytest.mark.parametrize("padding", [None, False, True, "longest"])
def test_padding_that_changes_nothing_is_accepted(padding):
    assert make_pipe()("a", padding=padding, **GREEDY) == make_pipe()("a", **GREEDY)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (3, "must be a string or a chat, or a list, generator or dataset of them, got 3"),
        (["a", 3], "prompt 1 must be a string, or a chat"),
        ([{"role": "user"}], "each a dict with 'role' and 'content'"),
        ([[{"role": "user", "content": "hi"}, "hi"]], "prompt 0 must be a string, or a chat"),
        (None, "must be a string or a chat"),
        ({"text": "a"}, "must be a string or a chat"),
    ],
)
def test_what_is_no_prompt_is_refused(prompts, message):
    with pytest.raises(PipelineError, match=message):
        make_pipe()(prompts)


def test_stream_yields_the_text_in_pieces_and_no_half_characters():
    pieces = list(scripted("caf\u00e9 bar").stream("a"))
    assert pieces == ["c", "a", "f", "\u00e9", " ", "b", "a", "r"]


def test_stream_trims_a_stop_string_before_it_is_seen():
    assert "".join(scripted("one HALF two").stream("a", stop_strings="HAL", trim_stop_strings=True)) == "one "


def test_leaving_a_stream_ends_the_generation():
    engine = FakeEngine(config=GPT2Config(vocab_size=50, n_positions=5000, n_embd=8, n_layer=1, n_head=1))
    stream = make_pipe(engine).stream("a", max_new_tokens=4000, eos_token_id=[])
    next(stream)
    stream.close()
    assert engine.num_alive == 0
    assert len(engine.batch_sizes) < 4000
    assert not any(thread.name == "gpt2kit-stream" for thread in threading.enumerate())


def test_a_failure_in_a_stream_is_raised_from_it():
    with pytest.raises(GenerationError, match="n_positions is 64"):
        list(make_pipe().stream("a" * 64))


def test_stream_batch_yields_the_pieces_of_all_rows():
    texts = {}
    options = {"num_return_sequences": 2, "seed": 1, "max_new_tokens": 9}
    for piece in make_pipe().stream_batch(PROMPTS, **options):
        texts[piece.prompt_index, piece.row] = texts.get((piece.prompt_index, piece.row), "") + piece.text
    rows = make_pipe().generate(PROMPTS, **options)
    assert texts == {(row.prompt_index, row.row): row.text for row in rows if row.text}


def test_stream_takes_one_row_only():
    with pytest.raises(GenerationError, match="stream takes one row, but 2 are asked for"):
        make_pipe().stream("a", num_return_sequences=2)


def test_a_streamer_gets_the_prompt_the_tokens_and_the_end(capsys):
    pipe = scripted("caf\u00e9")
    pipe("a", streamer=TextStreamer(pipe.tokenizer))
    assert capsys.readouterr().out == "acaf\u00e9<end>\n"
    pipe("a", streamer=TextStreamer(pipe.tokenizer, skip_prompt=True, skip_special_tokens=True))
    assert capsys.readouterr().out == "caf\u00e9\n"


def test_an_iterator_streamer_can_be_read_while_another_thread_generates():
    pipe = scripted("hello")
    streamer = TextIteratorStreamer(pipe.tokenizer, skip_prompt=True, timeout=10, skip_special_tokens=True)
    thread = threading.Thread(target=pipe, args=("a",), kwargs={"streamer": streamer})
    thread.start()
    assert list(streamer) == list("hello")
    thread.join()


def test_a_streamer_of_transformers_works_too(capsys):
    transformers = pytest.importorskip("transformers")
    pipe = scripted("hello")
    pipe("a", streamer=transformers.TextStreamer(pipe.tokenizer))
    assert capsys.readouterr().out == "ahello<end>\n"


def test_a_streamer_refuses_a_batch():
    with pytest.raises(GenerationError, match="a streamer takes one row, but 3 are asked for"):
        make_pipe()(PROMPTS, streamer=TextStreamer(FakeTokenizer()))


def test_custom_processors_and_criteria_can_be_passed():
    def only_a(token_ids, scores):
        scores[:] = -np.inf
        scores[1] = 0
        return scores

    result = make_pipe()("b", logits_processor=[only_a], stopping_criteria=[lambda ids, s: len(ids) == 4])
    assert result == [{"generated_text": "baaa"}]


def test_nothing_is_warned_about_in_normal_use():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_pipe()(PROMPTS, max_new_tokens=3)
        make_pipe()(PROMPTS, do_sample=False)
