import json

import pytest


@pytest.fixture
def tokenize(cli, model):
    def call(*args, **options):
        return cli("tokenize", "-m", model, *args, **options)

    return call


def test_ids_are_on_one_line(tokenize):
    result = tokenize("hello world")
    ids = [int(word) for word in result.out.split()]
    assert (result.code, result.err, result.out.count("\n"), len(ids)) == (0, "", 1, 6)


def test_text_round_trips(tokenize):
    ids = tokenize("hello w\u00f6rld\n\n").out
    assert tokenize("--decode", stdin=ids.encode()).out == "hello w\u00f6rld\n\n\n"
    assert tokenize("--decode", ids.replace(" ", ", ")).out == "hello w\u00f6rld\n\n\n"


def test_tokens_are_shown_one_a_line(tokenize):
    lines = tokenize("--tokens", "hello w\n").out.splitlines()
    assert [line.split("\t")[1] for line in lines] == ["'hello'", "' w'", r"'\n'"]


def test_tokens_can_be_counted(tokenize, tmp_path):
    path = tmp_path / "text"
    path.write_text("hello hello")
    assert tokenize("--count", "-f", path).out == "3\n"


def test_json_tells_everything(tokenize, model):
    report = json.loads(tokenize("--json", "hello w").out)
    ids = [token["id"] for token in report["tokens"]]
    assert report == {
        "model": model,
        "text": "hello w",
        "count": 2,
        "token_ids": ids,
        "tokens": [
            {"id": ids[0], "token": "hello", "text": "hello"},
            {"id": ids[1], "token": "\u0120w", "text": " w"},
        ],
    }
    back = json.loads(tokenize("--json", "--decode", f"{ids[0]} {ids[1]}").out)
    assert back == {"model": model, "text": "hello w", "count": 2, "token_ids": ids}


def test_without_a_model_the_built_in_vocabulary_is_used_and_stderr_says_so(cli):
    result = cli("tokenize", "Hello world")
    assert result.code == 0
    assert "the built-in model's vocabulary, not GPT-2's" in result.err
    assert cli("tokenize", "--decode", result.out, "-q").out == "Hello world\n"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--count", "--json", "x"], 2, "--count and --json exclude each other"),
        (["--count", "--decode", "1"], 2, "--count and --decode exclude each other"),
        (["--decode", "1 x"], 1, "'x' is not a token id; they go from 0 to 261"),
        (["--decode", "262"], 1, "'262' is not a token id"),
        (["--decode", "-1"], 2, "No such option"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(tokenize, args, code, message):
    result = tokenize(*args)
    assert (result.code, result.out, result.err.count("\n")) == (code, "", 1)
    assert message in result.err
