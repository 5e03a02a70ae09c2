import io
import json
import math
from pathlib import Path

import pytest

EXCERPT = Path(__file__).parents[1] / "data" / "persuasion_excerpt.txt"


@pytest.fixture
def score(cli, model):
    """`gpt2kit score` on the tiny model."""

    def call(*args, **options):
        return cli("score", "-m", model, *args, **options)

    return call


def report(result):
    assert (result.code, result.err) == (0, "")
    return json.loads(result.out)


def test_the_built_in_model_scores_the_held_out_excerpt_as_recorded(cli):
    result = cli("score", EXCERPT)
    assert result.code == 0
    assert "bits per byte:    1.4905\n" in result.out
    assert "using the small built-in model" in result.err
    assert cli("score", EXCERPT, "-q").err == ""


def test_the_text_comes_from_a_file_from_stdin_or_from_an_option(score, tmp_path):
    path = tmp_path / "a text \u00e9.txt"
    path.write_text("hello world\n")
    expected = score("--text", "hello world").out
    assert expected.startswith("tokens scored:    6\nbytes:            11\nlog-probability:  -")
    assert score(path).out == expected
    assert score("-", stdin=b"hello world\n").out == expected
    assert score(stdin=b"hello world").out == expected


def test_json_tells_everything(score, model):
    whole = report(score("--text", "hello w\u00f6", "--json", "--per-token"))
    assert {name: whole[name] for name in ("model", "engine", "window", "stride", "bos")} == {
        "model": model,
        "engine": "native",
        "window": 128,
        "stride": 64,
        "bos": True,
    }
    [text] = whole["texts"]
    assert [token["text"] for token in text["tokens"]] == ["hello", " w", "\ufffd", "\ufffd"]
    assert text["text"] == "hello w\u00f6"
    assert text["sum"] == pytest.approx(sum(token["log_probability"] for token in text["tokens"]))
    assert text["perplexity"] == pytest.approx(math.exp(-text["sum"] / 4))
    assert text["bits_per_byte"] == pytest.approx(-text["sum"] / math.log(2) / 9)
    assert whole["total"] == {
        "num_texts": 1,
        **{name: text[name] for name in text if name not in ("text", "tokens")},
    }
    assert "tokens" not in report(score("--text", "hello", "--json"))["texts"][0]


def test_tokens_are_printed_one_a_line(score):
    lines = score("--text", "hello w\n", "--per-token", "--no-bos").out.splitlines()
    assert [line.split("\t")[2] for line in lines[:3]] == ["'hello'", "' w'", r"'\n'"]
    assert lines[0].startswith("-\t")
    assert float(lines[1].split("\t")[0]) < 0
    assert lines[3:5] == ["", "tokens scored:    2"]


def test_each_line_can_be_a_text(score):
    lines = report(score("--lines", "--json", stdin=b"hello\r\n\nhello world\n"))
    assert [text["text"] for text in lines["texts"]] == ["hello", "", "hello world"]
    assert lines["texts"][2] == report(score("--text", "hello world", "--json"))["texts"][0]
    assert lines["total"]["num_tokens"] == 1 + 0 + 6
    table = score("--lines", stdin=b"hello\n\nhello world").out.splitlines()
    assert [row.split("\t")[-1] for row in table[:4]] == ["text", "hello", "", "hello world"]
    assert table[2].startswith("0.0000\t-\t-\t0")
    assert table[5] == "texts:            3"


def test_nothing_can_be_scored(score):
    empty = report(score("--text", "", "--json"))
    assert empty["texts"][0]["perplexity"] is None
    assert report(score("--lines", "--json", stdin=b""))["texts"] == []
    assert "perplexity:       -\n" in score("--text", "").out


def test_a_smaller_stride_changes_only_what_follows_the_first_window(score):
    text = "hello world, " * 20
    values = [
        [token["log_probability"] for token in report(result)["texts"][0]["tokens"]]
        for result in (
            score("--text", text, "--json", "--per-token", "--window", "20", "--stride", stride)
            for stride in ("1", "19")
        )
    ]
    assert len(values[0]) == len(values[1]) > 100
    assert values[0][:19] == values[1][:19]
    assert values[0][19:] != values[1][19:]


def test_an_infinite_perplexity_is_null_in_json(score, monkeypatch):
    from gpt2kit.scoring import text

    monkeypatch.setattr(text, "_measures", lambda *args: (-1e9, math.inf, 1.0))
    assert report(score("--text", "hello", "--json"))["total"]["perplexity"] is None
    assert "perplexity:       inf\n" in score("--text", "hello").out


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--text", "a", "--stride", "0"], 1, "stride is 0; it must be from 1 to 127"),
        (["--text", "a", "--stride", "128"], 1, "stride is 128; it must be from 1 to 127"),
        (["--text", "a", "--window", "129"], 1, "window is 129; it must be from 2 to 128"),
        (["--text", "a", "--window", "1"], 1, "window is 1; it must be from 2"),
        (["--text", "a", "--stride", "x"], 2, "'x' is not a valid integer"),
        (["--text", "a", "file"], 2, "Give FILE or --text, not both"),
        (["/does/not/exist"], 1, "No such file"),
        (["/"], 1, "/ is a folder; give a file"),
        (["--text", "a", "--threads", "0"], 2, "--threads"),
        (["--text", "a", "--engine", "native", "--dtype", "float8"], 1, "must be one of auto, float32"),
    ],
)
def test_mistakes_are_one_line(score, args, code, message):
    result = score(*args)
    assert (result.code, result.out, result.err.count("\n")) == (code, "", 1)
    assert message in result.err


def test_bytes_that_are_no_text_are_refused(score):
    result = score(stdin=b"caf\xe9")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "is not UTF-8 text (byte 0xe9 at 3)" in result.err


def test_no_text_on_a_terminal_is_wrong_usage(score, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", terminal)
    result = score()
    assert result.code == 2
    assert "No text: give FILE, --text, or text on stdin" in result.err
