"""gpt2kit run --task: the tasks that judge a text instead of continuing it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from gpt2kit.cli.console import print_json, visible
from gpt2kit.cli.loading import engine_name, load_pipeline
from gpt2kit.cli.options import read_file, read_text

if TYPE_CHECKING:
    from gpt2kit.pipelines import Pipeline

Command = TypeVar("Command", bound=Callable[..., Any])
Record = dict[str, Any]

# Task, or another name of one -> the options that it takes besides _COMMON.
TASKS: dict[str, tuple[str, ...]] = {
    "text-classification": ("top_k",),
    "sentiment-analysis": ("top_k",),
    "token-classification": ("aggregation",),
    "ner": ("aggregation",),
    "zero-shot-classification": ("labels", "multi_label", "top_k"),
    "question-answering": ("question", "context", "top_k"),
    "feature-extraction": (),
}
_JUDGING = ("lines", "aggregation", "labels", "multi_label", "question", "context")
_COMMON = (
    *("prompt", "file", "model", "as_json", "quiet", "task", "lines"),
    *("device", "dtype", "quant", "compute", "kv_cache_dtype"),
    *("engine", "threads", "revision", "allow_pickle"),
)

_OPTIONS = (
    click.option("--lines", is_flag=True, help="Other tasks: each line is a text of its own."),
    click.option(
        "--aggregation",
        type=click.Choice(["none", "simple", "first", "average", "max"]),
        help="token-classification: how tokens become entities [simple].",
    ),
    click.option("--labels", metavar="A,B,...", help="zero-shot-classification: the labels to choose from."),
    click.option("--multi-label", is_flag=True, help="zero-shot-classification: judge each label by itself."),
    click.option("--question", metavar="TEXT", help="question-answering: the question to the text."),
    click.option("--context", metavar="TEXT", help="question-answering: the text, in place of PROMPT."),
)


def judging_options(command: Command) -> Command:
    """Add the options of the tasks that judge, --lines to --context."""
    return reduce(lambda inner, option: option(inner), reversed(_OPTIONS), command)


def refuse_foreign_options(task: str) -> None:
    """Raise click.UsageError for an option on the command line that the task has no use for."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        is_known = name not in _JUDGING if task == "text-generation" else name in (*_COMMON, *TASKS[task])
        if not is_known:
            raise click.UsageError(f"{parameter.opts[-1]} is not an option of --task {task}")


def judge(task: str, prompt: str | None, file: Path | None, model: str | None, given: dict[str, Any]) -> None:
    """Read the inputs, judge them and print the results."""
    if given["top_k"] is not None and given["top_k"] < 1:
        raise click.UsageError(f"--top-k is {given['top_k']}; give at least 1")
    inputs = _questions(prompt, file, given) if task == "question-answering" else _texts(prompt, file, given)
    pipe = load_pipeline(task, model, given, **_pipeline_options(task, given))
    takes_top_k = pipe.task in ("text-classification", "question-answering")
    results = pipe(inputs, **({"top_k": given["top_k"]} if takes_top_k else {}))
    if pipe.task == "question-answering" and len(inputs) == 1:
        results = [results]  # one example gives its answer, also in a list
    reports = [_report(pipe, *pair, given["top_k"]) for pair in zip(inputs, results, strict=True)]
    if given["as_json"]:
        print_json({"model": model, "engine": engine_name(pipe), "task": pipe.task, "results": reports})
        return
    for index, report in enumerate(reports):
        if len(reports) > 1:
            click.echo(("\n" if index else "") + visible(report["text"]))
        for row in _rows(report):
            click.echo("\t".join(row))


def _texts(prompt: str | None, file: Path | None, given: dict[str, Any]) -> list[Any]:
    text = read_text(prompt, file, "text")
    return [line.removesuffix("\r") for line in text.split("\n")] if given["lines"] else [text]


def _questions(prompt: str | None, file: Path | None, given: dict[str, Any]) -> list[Any]:
    """Return examples: --question with its context, or JSON lines that hold both."""
    if given["context"] is not None and (prompt is not None or file is not None or given["lines"]):
        raise click.UsageError("--context replaces PROMPT, -f and --lines; give one of them")
    if given["question"] is None:
        if given["context"] is not None or prompt is not None or given["lines"]:
            raise click.UsageError("No question: give --question TEXT, or lines of JSON on stdin or with -f")
        return [_example(line, number) for number, line in enumerate(read_file(file).split("\n"), 1) if line]
    if given["context"] is not None:
        return [{"question": given["question"], "context": given["context"]}]
    return [{"question": given["question"], "context": text} for text in _texts(prompt, file, given)]


def _example(line: str, number: int) -> Record:
    try:
        example = json.loads(line)
    except ValueError as error:
        raise click.ClickException(f"line {number} is not JSON: {error}") from error
    if not isinstance(example, dict):
        raise click.ClickException(
            f'line {number} must be {{"question": ..., "context": ...}}, got {line:.80}'
        )
    return example


def _pipeline_options(task: str, given: dict[str, Any]) -> dict[str, Any]:
    if task in ("token-classification", "ner"):
        return {"aggregation_strategy": given["aggregation"] or "simple"}
    if task == "zero-shot-classification":
        if given["labels"] is None:
            raise click.UsageError("--task zero-shot-classification needs --labels A,B,...")
        return {"candidate_labels": given["labels"], "multi_label": given["multi_label"]}
    return {}


def _report(pipe: Pipeline, item: Any, result: Any, top_k: int | None) -> Record:
    """Return what is printed as JSON for one input."""
    if pipe.task == "question-answering":
        answers = result if isinstance(result, list) else [result]
        return {"text": item["question"], "context": item["context"], "answers": answers}
    if pipe.task == "zero-shot-classification":
        labels = zip(result["labels"], result["scores"], strict=True)
        result = [{"label": label, "score": score} for label, score in labels][:top_k]
    if pipe.task == "feature-extraction":
        tokens = pipe.tokenizer.convert_ids_to_tokens(pipe.tokenizer(item)["input_ids"])
        return {"text": item, "tokens": tokens, "features": result[0]}
    return {"text": item, "entities" if pipe.task == "token-classification" else "labels": result}


def _rows(report: Record) -> list[list[str]]:
    """Return the cells of a table for one input."""
    if "labels" in report:
        return [[f"{row['score']:.4f}", visible(row["label"])] for row in report["labels"]]
    if "entities" in report:
        return [
            [
                f"{row['score']:.4f}",
                visible(row.get("entity_group") or row["entity"]),
                f"{row['start']}-{row['end']}",
                visible(repr(report["text"][row["start"] : row["end"]])),
            ]
            for row in report["entities"]
        ]
    if "answers" in report:
        return [
            [f"{row['score']:.4f}", f"{row['start']}-{row['end']}", visible(repr(row["answer"]))]
            for row in report["answers"]
        ]
    return [
        [visible(token), *(f"{value:.5g}" for value in values)]
        for token, values in zip(report["tokens"], report["features"], strict=True)
    ]
