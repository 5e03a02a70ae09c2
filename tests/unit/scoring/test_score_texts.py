"""Scores of texts with the built-in model, and what they come to."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import pytest

import gpt2kit
from gpt2kit import builtin
from gpt2kit.engine import load_engine
from gpt2kit.errors import ScoringError
from gpt2kit.scoring import Score, log_probabilities, score, total
from gpt2kit.tokenizer import AutoTokenizer

EXCERPT = Path(__file__).parents[2] / "data" / "persuasion_excerpt.txt"
BITS_PER_BYTE = 1.49051  # recorded in tests/unit/test_builtin.py
TEXTS = ["She was not a woman of many words.", "", "a", "caf\u00e9 \U0001f600", "In the beginning\n\n" * 60]


@pytest.fixture(scope="module")
def engine():
    return load_engine(builtin.path())


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(builtin.path())


def test_the_built_in_model_costs_the_recorded_bits_per_byte(engine, tokenizer) -> None:
    text = EXCERPT.read_text(encoding="utf-8")
    [result] = gpt2kit.score(engine, tokenizer, [text])
    assert result.bits_per_byte == pytest.approx(BITS_PER_BYTE, abs=1e-4)
    assert result.num_bytes == len(text.encode())
    assert result.token_ids == tuple(tokenizer.encode(text))
    assert result.num_tokens == result.num_scored == len(result.tokens) == len(result.log_probabilities)


@pytest.mark.parametrize("add_bos", [True, False])
def test_measures_follow_from_the_log_probabilities(engine, tokenizer, add_bos) -> None:
    for result in score(engine, tokenizer, [TEXTS[0], TEXTS[4]], add_bos=add_bos, stride=100):
        values = [value for value in result.log_probabilities if value is not None]
        assert all(value < 0 for value in values)
        assert result.num_scored == len(values) == result.num_tokens - (not add_bos)
        assert result.sum == pytest.approx(sum(values), rel=1e-12)
        assert result.mean == pytest.approx(result.sum / len(values), rel=1e-12)
        assert result.perplexity == pytest.approx(math.exp(-result.mean), rel=1e-12)
        assert result.bits_per_byte == pytest.approx(-result.sum / math.log(2) / result.num_bytes, rel=1e-12)


def test_a_text_in_a_batch_scores_as_alone_to_the_bit(engine, tokenizer) -> None:
    together = score(engine, tokenizer, TEXTS, stride=50)
    assert together == [score(engine, tokenizer, [text], stride=50, batch_tokens=64)[0] for text in TEXTS]
    assert together[4].num_tokens > engine.config.n_positions / 2


def test_the_begin_token_is_context_and_not_scored(engine, tokenizer) -> None:
    ids = tokenizer.encode(TEXTS[0])
    [values] = log_probabilities(engine, [[tokenizer.bos_token_id, *ids]])
    [result] = score(engine, tokenizer, [TEXTS[0]])
    assert result.token_ids == tuple(ids)
    assert list(result.log_probabilities) == values.tolist()
    [without] = score(engine, tokenizer, [TEXTS[0]], add_bos=False)
    assert without.log_probabilities[0] is None
    assert list(without.log_probabilities[1:]) == log_probabilities(engine, [ids])[0].tolist()


def test_a_tokenizer_that_adds_tokens_itself_changes_nothing(engine, tokenizer) -> None:
    adding = copy.deepcopy(tokenizer)
    adding.add_bos_token = True
    assert adding.encode("a")[0] == adding.bos_token_id
    assert score(engine, adding, TEXTS) == score(engine, tokenizer, TEXTS)


def test_an_unscored_first_token_does_not_count_its_bytes(engine, tokenizer) -> None:
    [result] = score(engine, tokenizer, ["caf\u00e9 and tea"], add_bos=False)
    assert result.num_bytes == len("caf\u00e9 and tea".encode()) - len(result.tokens[0].encode())


def test_tokens_are_the_pieces_of_the_text(engine, tokenizer) -> None:
    [result] = score(engine, tokenizer, [TEXTS[0]])
    assert "".join(result.tokens) == TEXTS[0]


@pytest.mark.parametrize(
    ("text", "add_bos", "num_tokens", "num_scored"),
    [("", True, 0, 0), ("", False, 0, 0), ("a", True, 1, 1), ("a", False, 1, 0)],
)
def test_the_shortest_texts_are_defined(engine, tokenizer, text, add_bos, num_tokens, num_scored) -> None:
    [result] = score(engine, tokenizer, [text], add_bos=add_bos)
    assert (result.num_tokens, result.num_scored, result.num_bytes) == (num_tokens, num_scored, num_scored)
    if num_scored == 0:
        assert (result.sum, result.mean, result.perplexity, result.bits_per_byte) == (0.0, None, None, None)
        assert result.log_probabilities == (None,) * num_tokens
    else:
        assert result.perplexity == pytest.approx(math.exp(-result.log_probabilities[0]))


def test_the_total_counts_every_token_once(engine, tokenizer) -> None:
    scores = score(engine, tokenizer, TEXTS)
    together = total(scores)
    assert together.num_texts == len(TEXTS)
    assert together.num_bytes == sum(len(text.encode()) for text in TEXTS)
    assert together.sum == pytest.approx(sum(result.sum for result in scores), rel=1e-12)
    assert together.perplexity == pytest.approx(math.exp(-together.sum / together.num_scored), rel=1e-12)
    assert dataclasses.astuple(total([])) == (0, 0, 0, 0, 0.0, None, None, None)


def test_a_perplexity_beyond_floats_is_infinite() -> None:
    from gpt2kit.scoring.text import _measures

    assert _measures(-2000.0, 1, 1)[1] == math.inf


def test_scores_are_frozen(engine, tokenizer) -> None:
    [result] = score(engine, tokenizer, ["a"])
    assert isinstance(result, Score)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.sum = 0.0


def test_text_that_is_no_unicode_is_scored_as_its_replacement(engine, tokenizer) -> None:
    broken, replaced = score(engine, tokenizer, ["\ud800x", "\ufffdx"])
    assert broken == replaced


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one text", r"give a list of texts: \[text\]"),
        (b"bytes", "give a list of texts"),
        ([b"bytes"], "text 0 is of type bytes"),
        (["a", None], "text 1 is of type NoneType"),
        ([["a"]], "text 0 is of type list"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(engine, tokenizer, texts, message) -> None:
    with pytest.raises(ScoringError, match=message):
        score(engine, tokenizer, texts)


def test_a_tokenizer_of_another_model_is_refused(engine, tokenizer) -> None:
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens(["<|new|>"])
    with pytest.raises(ScoringError, match=r"row 1 has token id 6144; .* use the tokenizer that belongs"):
        score(engine, larger, ["fine", "a <|new|> one"])


def test_a_tokenizer_without_a_begin_token_needs_add_bos_to_be_off(engine, tokenizer) -> None:
    bare = copy.deepcopy(tokenizer)
    bare.bos_token = None
    bare.eos_token = None
    with pytest.raises(ScoringError, match="use add_bos=False"):
        score(engine, bare, ["a b"])
    assert score(engine, bare, ["a b"], add_bos=False)[0].num_scored > 0


def test_scoring_needs_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from gpt2kit import score, load_engine, builtin, AutoTokenizer\n"
        "score(load_engine(builtin.path()), AutoTokenizer.from_pretrained(builtin.path()), ['a b'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
