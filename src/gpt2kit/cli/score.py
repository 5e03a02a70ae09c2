"""gpt2kit score: how probable a text is."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2kit.cli.console import print_json, visible
from gpt2kit.cli.loading import engine_name, engine_options, load_model
from gpt2kit.cli.options import debug_option, json_option, model_option, read_file, read_text

if TYPE_CHECKING:
    from gpt2kit.scoring import Score, Total


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--text", metavar="TEXT", help="Score TEXT instead of a file.")
@model_option
@click.option("--stride", type=int, metavar="N", help="Tokens between windows [half the window].")
@click.option("--window", type=int, metavar="N", help="Tokens in a window [all that the model can hold].")
@click.option(
    "--bos/--no-bos", default=True, help="Put the begin token before a text, to score its first token [yes]."
)
@click.option("--per-token", is_flag=True, help="One line a token: log-probability, id, text in quotes.")
@click.option("--lines", is_flag=True, help="Each line is a text of its own.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="No notices on stderr.")
@engine_options
@debug_option
def score(file: Path | None, text: str | None, model: str | None, **given: Any) -> None:
    """Tell how probable the text in FILE is: log-probability, perplexity, bits per byte.

    The text comes from FILE, from --text or from stdin. One line end at its end is dropped. A text
    longer than the window is scored in windows that begin every --stride tokens, each token once: a
    small stride gives every token much context and takes long.

    \b
    gpt2kit score story.txt
    gpt2kit score --text "Hello world" --per-token
    gpt2kit score -m gpt2 --lines --json < sentences.txt
    """
    source = _read(file, text)
    texts = _lines(source) if given["lines"] else [source]
    pipe = load_model(model, given)
    from gpt2kit import scoring

    window, stride = scoring.resolve_window(pipe.engine, given["window"], given["stride"])
    scores = scoring.score(
        pipe.engine, pipe.tokenizer, texts, stride=stride, window=window, add_bos=given["bos"]
    )
    together = scoring.total(scores)
    if given["as_json"]:
        rows = [
            {"text": text, **_report(result, given["per_token"])}
            for text, result in zip(texts, scores, strict=True)
        ]
        settings = {"window": window, "stride": stride, "bos": given["bos"]}
        total = {"num_texts": together.num_texts, **_measures(together)}
        print_json({"model": model, "engine": engine_name(pipe), **settings, "texts": rows, "total": total})
        return
    if given["per_token"]:
        _print_tokens(scores)
    elif given["lines"]:
        _print_table(texts, scores)
    _print_total(together, given["lines"])


def _read(file: Path | None, text: str | None) -> str:
    if file is not None and text is not None:
        raise click.UsageError("Give FILE or --text, not both")
    if text is not None:
        return read_text(text, None, "text")
    if file is None and sys.stdin.isatty():
        raise click.UsageError("No text: give FILE, --text, or text on stdin")
    return read_file(file)


def _lines(source: str) -> list[str]:
    """Split at line ends only; empty lines stay, so that scores and lines have the same numbers."""
    return [line.removesuffix("\r") for line in source.split("\n")] if source else []


def _measures(result: Score | Total) -> dict[str, Any]:
    """Return what a score comes to; JSON has no infinity, so an infinite perplexity is null."""
    perplexity = result.perplexity
    return {
        "num_tokens": result.num_tokens,
        "num_scored": result.num_scored,
        "num_bytes": result.num_bytes,
        "sum": result.sum,
        "mean": result.mean,
        "perplexity": None if perplexity is None or math.isinf(perplexity) else perplexity,
        "bits_per_byte": result.bits_per_byte,
    }


def _report(result: Score, per_token: bool) -> dict[str, Any]:
    report = _measures(result)
    if per_token:
        report["tokens"] = [
            {"id": token_id, "text": token, "log_probability": value}
            for token_id, token, value in zip(
                result.token_ids, result.tokens, result.log_probabilities, strict=True
            )
        ]
    return report


def _print_tokens(scores: list[Score]) -> None:
    """Print one line a token, and an empty line after each text."""
    for result in scores:
        for token_id, token, value in zip(
            result.token_ids, result.tokens, result.log_probabilities, strict=True
        ):
            click.echo(f"{_number(value)}\t{token_id}\t{visible(repr(token))}")
        click.echo()


def _print_table(texts: list[str], scores: list[Score]) -> None:
    """Print one line a text, under a line of names, and an empty line."""
    is_terminal = sys.stdout.isatty()
    click.echo("log-probability\tperplexity\tbits per byte\ttokens\ttext")
    for text, result in zip(texts, scores, strict=True):
        numbers = (result.sum, result.perplexity, result.bits_per_byte)
        shown = visible(text) if is_terminal else text
        click.echo("\t".join([*map(_number, numbers), str(result.num_scored), shown]))
    click.echo()


def _print_total(together: Total, has_lines: bool) -> None:
    facts = {
        "tokens scored": f"{together.num_scored:,}",
        "bytes": f"{together.num_bytes:,}",
        "log-probability": f"{_number(together.sum)} nats",
        "perplexity": _number(together.perplexity),
        "bits per byte": _number(together.bits_per_byte),
    }
    if has_lines:
        facts = {"texts": f"{together.num_texts:,}", **facts}
    for name, value in facts.items():
        click.echo(f"{name + ':':<18}{value}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
