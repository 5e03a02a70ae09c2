import json

import pytest

QUICK = ("--prompt", 8, "--decode", 4, "--context", 6, "--repeats", 2, "--threads", 2)


def test_json_is_one_line_with_every_figure(cli):
    result = cli("bench", *QUICK, "--batch", 3, "--json", "--quiet")
    assert (result.code, result.err) == (0, "")
    [line] = result.out.splitlines()
    report = json.loads(line)
    assert report["peer"] == "gpt2kit" and report["size"] == "built-in"
    assert report["precision"] == "float16" and report["threads"] == 2
    for key in ("prefill_tokens_per_s", "decode_tokens_per_s", "batch_decode_tokens_per_s", "rss_mb"):
        assert report[key] > 0
    assert 0 < report["load_s"] < 60 and 0 < report["first_token_s"] < 60
    assert (report["prompt"], report["decode"], report["context"], report["batch"]) == (8, 4, 6, 3)
    assert set(report["phases"]) == {"prefill", "decode", "batch_decode"}
    arithmetic = set(report["limits"]["operations_per_s"])
    for phase in report["phases"].values():
        assert len(phase["tokens_per_s"]) == 2
        assert set(phase["reached"]) == {"read", *arithmetic}
        assert all(part > 0 for part in phase["reached"].values())


def test_people_get_a_table(cli):
    result = cli("bench", *QUICK)
    assert result.code == 0
    head, _, titles, *rows, _, last = result.out.splitlines()
    assert head.startswith("built-in: 12.9 MB of weights in float16, ") and "2 threads" in head
    assert "tokens/s" in titles and "of reading" in titles and "of float32" in titles
    assert [row.split("  ")[0] for row in rows] == [
        "prefill, 8 tokens",
        "decode, 4 after 6",
        "machine, best round",
        "machine, median",
    ]
    assert last.startswith("load ") and "peak memory" in last
    assert "built-in model" in result.err


def test_a_dtype_converts_the_weights(cli, model):
    plain = json.loads(cli("bench", model, *QUICK, "--json").out)
    short = json.loads(cli("bench", model, *QUICK, "--json", "--dtype", "bfloat16").out)
    assert (plain["precision"], short["precision"]) == ("float32", "bfloat16")
    assert plain["weights_bytes"] == 2 * short["weights_bytes"]
    assert plain["batch_decode_tokens_per_s"] is None and plain["batch"] == 1


def test_a_shorter_cache_is_named_and_reads_less(cli, model):
    plain = json.loads(cli("bench", model, *QUICK, "--json").out)
    short = json.loads(cli("bench", model, *QUICK, "--json", "--kv-cache-dtype", "int8").out)
    assert (plain["kv_cache_dtype"], short["kv_cache_dtype"]) == ("float32", "int8")
    read = [report["phases"]["decode"]["bytes_per_token"] for report in (plain, short)]
    assert read[0] > read[1] > plain["weights_bytes"] / 2
    assert "keys and values in bfloat16" in cli("bench", model, *QUICK, "--kv-cache-dtype", "bfloat16").out


def test_the_instruction_set_can_be_forced(cli, monkeypatch, model):
    monkeypatch.setenv("GPT2KIT_ISA", "reference")
    assert json.loads(cli("bench", model, *QUICK, "--json").out)["isa"] == "reference"


def test_lengths_are_shortened_only_where_they_are_not_given(cli, model):
    report = json.loads(cli("bench", model, "--repeats", 1, "--json").out)
    assert (report["prompt"], report["decode"], report["context"]) == (127, 63, 64)  # of 128 positions
    result = cli("bench", model, "--prompt", 128)
    assert result.code == 1 and "prompt is 128; the model has 128 positions" in result.err
    result = cli("bench", model, "--context", 100, "--decode", 28)
    assert result.code == 1 and "context 100 and decode 28 make 128 tokens" in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "0"], "0 is not in the range x>=1"),
        (["--decode", "x"], "'x' is not a valid integer"),
        (["--batch", "5000"], "5000 is not in the range 1<=x<=4096"),
        (["--dtype", "int4"], "'int4' is not one of"),
        (["--quant", "int3"], "'int3' is not one of"),
        (["--kv-cache-dtype", "int4"], "'int4' is not one of"),
    ],
)
def test_wrong_options_are_wrong_usage(cli, options, message):
    result = cli("bench", *options)
    assert result.code == 2 and message in result.err
    assert len(result.err.splitlines()) == 1


def test_a_missing_model_is_one_line(cli):
    result = cli("bench", "/does/not/exist")
    assert result.code == 1 and len(result.err.splitlines()) == 1
