"""gpt2kit tokenize: text to token ids, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gpt2kit.cli.console import notice, print_json, visible
from gpt2kit.cli.options import debug_option, file_option, json_option, model_option, read_text


@click.command()
@click.argument("text", required=False)
@file_option
@model_option
@click.option("--tokens", "show_tokens", is_flag=True, help="One line a token: id, and its text in quotes.")
@click.option("--count", is_flag=True, help="Print only how many tokens there are.")
@click.option(
    "--decode", is_flag=True, help="TEXT holds token ids, with spaces or commas between; print the text."
)
@click.option("-q", "--quiet", is_flag=True, help="No notices on stderr.")
@json_option
@debug_option
def tokenize(
    text: str | None,
    file: Path | None,
    model: str | None,
    show_tokens: bool,
    count: bool,
    decode: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Turn TEXT into token ids, printed on one line.

    TEXT comes from the argument, from -f FILE or from stdin.

    \b
    gpt2kit tokenize "Hello world"
    gpt2kit tokenize --count -f story.txt
    gpt2kit tokenize -m gpt2 --decode "15496 995"
    """
    chosen = [
        name
        for name, is_on in {"--tokens": show_tokens, "--count": count, "--json": as_json}.items()
        if is_on
    ]
    if len(chosen) > 1 or (decode and (show_tokens or count)):
        raise click.UsageError(f"{' and '.join([*chosen, '--decode'][:2])} exclude each other")
    source = read_text(text, file, "text")
    tokenizer = _load_tokenizer(model, quiet)
    if decode:
        ids = _parse_ids(source, len(tokenizer))
        decoded = tokenizer.decode(ids)
        if as_json:
            print_json({"model": model, "text": decoded, "count": len(ids), "token_ids": ids})
        else:
            click.echo(decoded)
        return
    ids = tokenizer.encode(source)
    if as_json:
        rows = [
            {"id": token_id, "token": name, "text": part} for token_id, name, part in _rows(tokenizer, ids)
        ]
        print_json({"model": model, "text": source, "count": len(ids), "token_ids": ids, "tokens": rows})
    elif count:
        click.echo(len(ids))
    elif show_tokens:
        for token_id, _, part in _rows(tokenizer, ids):
            click.echo(f"{token_id}\t{visible(repr(part))}")
    else:
        click.echo(" ".join(str(token_id) for token_id in ids))


def _load_tokenizer(model: str | None, quiet: bool) -> Any:
    from gpt2kit.tokenizer import AutoTokenizer

    if model is not None:
        return AutoTokenizer.from_pretrained(model)
    from gpt2kit import builtin

    if not quiet:
        notice("no --model given: the built-in model's vocabulary, not GPT-2's; use -m gpt2 for that")
    return AutoTokenizer.from_pretrained(builtin.path())


def _rows(tokenizer: Any, ids: list[int]) -> list[tuple[int, str, str]]:
    names = tokenizer.convert_ids_to_tokens(ids)
    return [(token_id, name, tokenizer.decode([token_id])) for token_id, name in zip(ids, names, strict=True)]


def _parse_ids(source: str, vocab_size: int) -> list[int]:
    ids = []
    for word in source.replace(",", " ").replace("[", " ").replace("]", " ").split():
        if not word.isdecimal() or int(word) >= vocab_size:
            raise click.ClickException(f"{word!r} is not a token id; they go from 0 to {vocab_size - 1}")
        ids.append(int(word))
    return ids
