import json
import shutil
from pathlib import Path

import pytest

SAMPLED = ("-n", "12", "--seed", "7")


@pytest.fixture
def run(cli, model):
    """`gpt2kit run` on the tiny model."""

    def call(*args, **options):
        return cli("run", "-m", model, *args, **options)

    return call


@pytest.fixture
def expected(run):
    """What the prompt "hello" gives, read from --json."""
    choice = json.loads(run("hello", *SAMPLED, "--json").out)["choices"][0]
    assert len(choice["token_ids"]) == 12
    return "hello" + choice["text"] + "\n"


def test_the_prompt_comes_from_the_argument(run, expected):
    result = run("hello", *SAMPLED)
    assert (result.code, result.out, result.err) == (0, expected, "")


@pytest.mark.parametrize("args", [(), ("-",), ("-f", "-")])
@pytest.mark.parametrize("data", [b"hello", b"hello\n", b"hello\r\n", b"\xef\xbb\xbfhello\n"])
def test_the_prompt_comes_from_stdin_without_its_last_line_end(run, expected, args, data):
    assert run(*args, *SAMPLED, stdin=data).out == expected


def test_only_one_line_end_is_dropped(run):
    assert json.loads(run("-", "--json", *SAMPLED, stdin=b"a\n\n").out)["prompt"] == "a\n"


def test_the_prompt_comes_from_a_file(run, expected, tmp_path):
    path = tmp_path / "a prompt \u00e9.txt"
    path.write_text("hello\n")
    assert run("-f", path, *SAMPLED).out == expected


def test_an_argument_wins_over_a_pipe_that_nobody_reads(run, expected):
    assert run("hello", *SAMPLED, stdin=b"other").out == expected


def test_all_at_once_is_the_same_text(run, expected):
    assert run("hello", *SAMPLED, "--no-stream").out == expected


def test_the_prompt_need_not_be_printed(run, expected):
    assert run("hello", *SAMPLED, "--no-echo").out == expected.removeprefix("hello")
    assert run("hello", *SAMPLED, "--no-echo", "--no-stream").out == expected.removeprefix("hello")


def test_transformers_command_line_still_works(run, expected):
    result = run("--task", "text-generation", "--device", "0", *SAMPLED, stdin=b"hello\n")
    assert (result.code, result.out) == (0, expected)
    assert result.err == "gpt2kit: device 0 was asked for, but there is no accelerator; using the CPU\n"


def test_all_spellings_of_the_options_are_known(run):
    one = run("hello", "-n", "5", "-t", "0.9", "--seed", "1").out
    assert run("hello", "--max-tokens", "5", "--temp", "0.9", "--seed", "1").out == one
    assert run("hello", "--max-new-tokens", "5", "--temperature", "0.9", "--seed", "1").out == one


@pytest.mark.parametrize(
    "option",
    [
        ("--top-k", "1"),
        ("--top-p", "0.0"),
        ("--min-p", "1.0"),
    ],
)
def test_the_narrowest_sampling_is_greedy(run, option):
    assert run("hello", "-n", "9", *option).out == run("hello", "-n", "9", "--greedy").out


def test_every_sampling_option_reaches_the_generation(run):
    options = [
        "--typical-p",
        "0.5",
        "--repetition-penalty",
        "1.3",
        "--no-repeat-ngram-size",
        "2",
        "--top-k",
        "0",
    ]
    assert run("hello", *SAMPLED, *options).code == 0
    report = json.loads(run("hello", "--greedy", "-n", "40", "--no-repeat-ngram-size", "1", "--json").out)
    ids = report["choices"][0]["token_ids"]
    assert len(set(ids)) == len(ids) > 9


def test_temperature_0_is_greedy(run):
    assert run("hello", "-n", "9", "-t", "0").out == run("hello", "-n", "9", "--greedy").out


def test_beams_search_instead_of_sampling(run):
    options = (
        "-n",
        "12",
        "--num-beams",
        "4",
        "-N",
        "3",
        "--length-penalty",
        "0",
        "--early-stopping",
        "never",
    )
    report = json.loads(run("hello", *options, "--json").out)
    scores = [choice["score"] for choice in report["choices"]]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)
    texts = ["hello" + choice["text"] for choice in report["choices"]]
    assert run("hello", *options, "--greedy").out == "\n---\n".join(texts) + "\n"
    assert run("hello", *options[:4]).out == run("hello", *options[:4], "--no-stream").out


def test_beams_may_be_sampled_or_grouped(run):
    def beams(*options):
        return run("hello", "-n", "12", "--num-beams", "4", "-N", "4", *options).out

    assert (
        beams("-t", "3", "--seed", "1") == beams("-t", "3", "--seed", "1") != beams("-t", "3", "--seed", "2")
    )
    groups = beams("--num-beam-groups", "4", "--diversity-penalty", "99")
    assert len({text[5:8] for text in groups.split("\n---\n")}) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--num-beams", "2", "-N", "3"),
            "`num_return_sequences` (3) has to be smaller or equal to `num_beams` (2)",
        ),
        (("--num-beams", "4", "--num-beam-groups", "3", "--diversity-penalty", "1"), "should be divisible"),
        (("--num-beams", "4", "--greedy", "--top-k", "3"), "--greedy excludes --top-k"),
        (("--num-beams", "2", "--early-stopping", "soon"), "'soon' is not one of 'false', 'true', 'never'"),
    ],
)
def test_beams_that_contradict_are_one_clear_line(run, options, message):
    result = run("hello", *options)
    assert (result.code != 0, result.out) == (True, "")
    assert message in result.err


def test_several_continuations_are_separated(run):
    report = json.loads(run("hello", *SAMPLED, "-N", "3", "--json").out)
    texts = ["hello" + choice["text"] for choice in report["choices"]]
    assert run("hello", *SAMPLED, "-N", "3").out == "\n---\n".join(texts) + "\n"
    assert len(set(texts)) == 3


def test_a_model_that_recommends_several_continuations_gets_them(cli, run, model, tmp_path):
    shutil.copytree(model, tmp_path, dirs_exist_ok=True)
    tmp_path.joinpath("generation_config.json").write_text('{"do_sample": true, "num_return_sequences": 3}')
    expected = run("hello", *SAMPLED, "-N", "3", "-t", "0.7").out
    assert cli("run", "-m", tmp_path, "hello", *SAMPLED).out == expected


def test_json_tells_everything(run, model):
    report = json.loads(run("hello w", *SAMPLED, "--json", "-N", "2").out)
    assert list(report) == ["model", "engine", "prompt", "seed", "choices", "usage", "timings"]
    assert (report["model"], report["engine"], report["prompt"], report["seed"]) == (
        model,
        "native",
        "hello w",
        7,
    )
    assert report["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 24,
        "total_tokens": 26,
        "completion_tokens_details": {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
    }
    assert list(report["choices"][1]) == [
        "index",
        "text",
        "token_ids",
        "finish_reason",
        "stop_string",
        "score",
    ]
    assert [choice["finish_reason"] for choice in report["choices"]] == ["length", "length"]
    timings = report["timings"]
    assert list(timings) == ["total_s", "load_s", "prompt_s", "generation_s"]
    parts = timings["load_s"] + timings["prompt_s"] + timings["generation_s"]
    assert timings["total_s"] == pytest.approx(parts, abs=1e-4)


def test_without_a_seed_the_one_that_was_drawn_is_reported(run):
    report = json.loads(run("hello", "-n", "9", "--json").out)
    assert report["seed"] < 2**53
    again = json.loads(run("hello", "-n", "9", "--json", "--seed", str(report["seed"])).out)
    assert again["choices"] == report["choices"]


def test_a_stop_text_is_trimmed_or_kept(run):
    text = json.loads(run("hello", "--greedy", "-n", "30", "--json").out)["choices"][0]["text"]
    stop = text[3:5]
    start = text.index(stop)
    assert (
        run("hello", "--greedy", "-n", "30", "--stop", stop, "--stop", "\x00no").out
        == f"hello{text[:start]}\n"
    )
    kept = run("hello", "--greedy", "-n", "30", "--stop", stop, "--keep-stop").out
    assert kept == f"hello{text[: start + 2]}\n"
    report = json.loads(run("hello", "--greedy", "-n", "30", "--stop", stop, "--json").out)
    assert (report["choices"][0]["finish_reason"], report["choices"][0]["stop_string"]) == ("stop", stop)


def test_timings_go_to_stderr(run, expected):
    result = run("hello", *SAMPLED, "-v")
    assert result.out == expected
    names = [line.split(":")[0] for line in result.err.splitlines()]
    assert names == [
        "engine",
        "seed",
        "finish reason",
        "total duration",
        "load duration",
        "prompt eval count",
        "prompt eval duration",
        "prompt eval rate",
        "eval count",
        "eval duration",
        "eval rate",
    ]


def test_the_python_loop_gives_the_same_text(run, expected):
    pytest.importorskip("torch")
    pytest.importorskip("gpt2kit.engine.torch")
    assert run("hello", *SAMPLED, "--engine", "torch").out == expected


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["hi", "--nope"], 2, "gpt2kit run: error: No such option '--nope'"),
        (["hi", "there"], 2, "Got unexpected extra argument (there)"),
        (["hi", "-n", "x"], 2, "'x' is not a valid integer"),
        (["hi", "-f", "x"], 2, "as an argument or with -f, not both"),
        (["hi", "--greedy", "-t", "0.5"], 2, "--greedy excludes --temperature"),
        (["hi", "-t", "0", "--top-k", "3"], 2, "--temperature 0 excludes --top-k"),
        (["hi", "--greedy", "-N", "2"], 2, "--greedy excludes --num-return-sequences"),
        (["hi", "--keep-stop"], 2, "--keep-stop needs --stop"),
        (["hi", "--task", "translation"], 2, "'translation' is not one of 'text-generation'"),
        (["hi", "--threads", "0"], 2, "0 is not in the range"),
        (["hi", "-n", "0"], 1, "max_new_tokens must be at least 1"),
        (["hi", "-n", "200"], 1, "n_positions is 128"),
        (["hi", "-t", "-1"], 1, "temperature must be over 0"),
        (["hi", "--top-p", "1.5"], 1, "top_p must be from 0 to 1"),
        (["hi", "--seed", "-1"], 1, "seed must be from 0 to 2**64-1"),
        (["hi", "--stop", ""], 1, "none empty"),
        (["hi", "--device", "tpu"], 1, "device must be"),
        (["hi", "--dtype", "float8"], 1, "float8"),
        (["-f", "/does/not/exist"], 1, "No such file or directory: '/does/not/exist'"),
        (["-f", "/"], 1, "/ is a folder"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(run, args, code, message):
    result = run(*args)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert result.err.count("\n") == 1


def test_text_that_is_not_utf_8_is_refused(run):
    result = run("-", stdin=b"caf\xe9 au lait")
    assert (result.code, result.out) == (1, "")
    assert "stdin is not UTF-8 text (byte 0xe9 at 3)" in result.err


@pytest.mark.parametrize("name", ["/does/not/exist", "no such model"])
def test_a_model_that_is_not_there_is_one_line_with_a_cure(cli, name):
    result = cli("run", "-m", name, "hi")
    assert (result.code, result.out) == (1, "")
    assert "neither a folder that exists nor a name like" in result.err


def test_a_damaged_model_is_one_line(cli, model, tmp_path):
    for path in ("config.json", "vocab.json", "merges.txt"):
        shutil.copy(f"{model}/{path}", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    result = cli("run", "-m", tmp_path, "hi")
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert "model.safetensors" in result.err


def test_without_a_model_the_built_in_one_is_used_and_stderr_says_so(cli, model, monkeypatch):
    monkeypatch.setattr("gpt2kit.builtin.path", lambda: Path(model))
    result = cli("run", "hello", *SAMPLED)
    assert result.code == 0
    assert result.err.startswith("gpt2kit: no --model given: using the small built-in model")
    assert result.out == cli("run", "-m", model, "hello", *SAMPLED).out
    assert cli("run", "hello", *SAMPLED, "--quiet").err == ""
    assert json.loads(cli("run", "hello", "--json", "-q").out)["model"] is None


def test_debug_shows_the_traceback(run, monkeypatch):
    assert "Traceback" in run("hi", "-n", "200", "--debug").err
    monkeypatch.setenv("GPT2KIT_DEBUG", "1")
    assert "Traceback" in run("hi", "-n", "200").err


def test_a_mistake_of_ours_is_one_line_too(run, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("boom")

    monkeypatch.setattr("gpt2kit.pipelines.text_generation.generate_merged", fail)
    result = run("hi")
    assert result.code == 1
    assert (
        result.err == "gpt2kit: error: unexpected RuntimeError: boom; --debug shows where, please report it\n"
    )


@pytest.mark.parametrize(
    "options",
    [
        ["--penalty-alpha", "0.6", "--top-k", "4"],
        ["--dola-layers", "low"],
        ["--greedy", "--prompt-lookup-num-tokens", "4"],
    ],
)
def test_other_ways_of_choosing_tokens(run, options):
    result = run("hello", "-n", "6", "--json", *options)
    assert result.code == 0, result.err
    assert 1 <= len(json.loads(result.out)["choices"][0]["token_ids"]) <= 6


def test_guesses_change_no_text(run, expected, model):
    assert run("hello", *SAMPLED, "--prompt-lookup-num-tokens", "3").out == expected
    assert run("hello", *SAMPLED, "--assistant-model", model).out == expected


def test_what_was_guessed_is_told(run, model):
    options = ["hello hello hello", "--greedy", "-n", "60", "--prompt-lookup-num-tokens", "6"]
    report = json.loads(run(*options, "--max-matching-ngram-size", "3", "--json").out)
    details = report["usage"]["completion_tokens_details"]
    assert all(count >= 0 for count in details.values())
    plain = json.loads(run(*options[:4], "--json").out)
    assert report["choices"] == plain["choices"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--max-matching-ngram-size", "2"], "needs --prompt-lookup-num-tokens"),
        (["--num-assistant-tokens", "2"], "needs --assistant-model or --assistant-early-exit"),
        (["--assistant-confidence-threshold", "0.1"], "needs --assistant-model or --assistant-early-exit"),
    ],
)
def test_options_of_guessing_need_something_that_guesses(run, option, message):
    result = run("hello", *option)
    assert result.code == 2 and message in result.err


def test_text_goes_on_past_the_context_when_asked(run):
    refused = run("word " * 600, "-n", "2")
    assert refused.code != 0 and "long_generation" in refused.err
    assert run("word " * 600, "-n", "2", "--long-generation", "slide").code == 0
