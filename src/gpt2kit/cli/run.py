"""gpt2kit run: continue a text. The other tasks of --task are in judge.py."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2kit.cli.console import print_json, visible
from gpt2kit.cli.judge import TASKS, judge, judging_options, refuse_foreign_options
from gpt2kit.cli.loading import engine_name, engine_options, load_model
from gpt2kit.cli.options import debug_option, file_option, json_option, model_option, read_text

if TYPE_CHECKING:
    from gpt2kit.generation import Generated
    from gpt2kit.pipelines import TextGenerationPipeline

# Options of the command that are generation options of the same name; None leaves the choice to the model.
_GENERATION = (
    "max_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "num_return_sequences",
    "num_beams",
    "length_penalty",
    "num_beam_groups",
    "diversity_penalty",
    "penalty_alpha",
    "dola_layers",
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
    "num_assistant_tokens",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "long_generation",
)
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")
# Options that mean nothing without one of others.
_NEEDS = {
    "max_matching_ngram_size": ("prompt_lookup_num_tokens",),
    "num_assistant_tokens": ("assistant_model", "assistant_early_exit"),
    "assistant_confidence_threshold": ("assistant_model", "assistant_early_exit"),
}
_EARLY_STOPPING = {"false": False, "true": True, "never": "never"}


@click.command()
@click.argument("prompt", required=False)
@file_option
@model_option
@click.option(
    "-n", "--max-new-tokens", "--max-tokens", type=int, metavar="N", help="New tokens at most [256]."
)
@click.option(
    "-t", "--temperature", "--temp", type=float, metavar="X", help="Higher is wilder; 0 is greedy [0.7]."
)
@click.option(
    "--top-k",
    type=int,
    metavar="N",
    help="Choose among the N most probable tokens; 0 for all [50]. Other tasks: the N best labels or answers.",
)
@click.option("--top-p", type=float, metavar="P", help="Choose among the top tokens that hold probability P.")
@click.option("--min-p", type=float, metavar="P", help="Drop tokens below P times the most probable one.")
@click.option("--typical-p", type=float, metavar="P", help="Keep the most typical tokens that hold P.")
@click.option("--repetition-penalty", type=float, metavar="X", help="Over 1 makes seen tokens less likely.")
@click.option("--no-repeat-ngram-size", type=int, metavar="N", help="Never repeat N tokens in a row.")
@click.option("--num-beams", type=int, metavar="N", help="Search with N beams instead of sampling.")
@click.option("--length-penalty", type=float, metavar="X", help="Beams: over 0 favours long texts [1].")
@click.option(
    "--early-stopping",
    type=click.Choice(list(_EARLY_STOPPING)),
    help="Beams: end at the first N complete texts, or never before no better one can come [false].",
)
@click.option("--num-beam-groups", type=int, metavar="N", help="Divide the beams into N groups that differ.")
@click.option("--diversity-penalty", type=float, metavar="X", help="Groups: how much the same token costs.")
@click.option(
    "--penalty-alpha", type=float, metavar="X", help="Contrastive search: how much repeating a state costs."
)
@click.option("--dola-layers", type=click.Choice(["low", "high"]), help="Contrast with early layers (DoLa).")
@click.option(
    "--assistant-model",
    metavar="MODEL",
    help="A smaller model that guesses ahead: the same text, sooner.",
)
@click.option(
    "--prompt-lookup-num-tokens",
    type=int,
    metavar="N",
    help="Guess up to N tokens ahead from the text itself: the same text, sooner.",
)
@click.option(
    "--max-matching-ngram-size", type=int, metavar="N", help="Guess by the last N tokens or fewer [2]."
)
@click.option("--assistant-early-exit", type=int, metavar="N", help="Guess with the first N layers.")
@click.option("--num-assistant-tokens", type=int, metavar="N", help="The assistant's longest guess [20].")
@click.option(
    "--assistant-confidence-threshold",
    type=float,
    metavar="P",
    help="The assistant stops guessing at a token less probable than P [0.4].",
)
@click.option(
    "--long-generation",
    type=click.Choice(["slide"]),
    help="Go on past the model's context with a window that slides by half of it.",
)
@click.option("--greedy", is_flag=True, help="Always take the most probable token.")
@click.option("--seed", type=int, metavar="N", help="Make the random choices repeatable.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before TEXT; may be given several times.")
@click.option("--keep-stop", is_flag=True, help="Print the stop text too.")
@click.option("-N", "--num-return-sequences", type=int, metavar="N", help="How many continuations [1].")
@click.option("--echo/--no-echo", default=True, help="Print the prompt before its continuation [yes].")
@click.option(
    "--stream/--no-stream", default=True, help="Print text as it comes, or all at the end [stream]."
)
@click.option("--raw", is_flag=True, help="Do not escape control characters on a terminal.")
@json_option
@click.option("-v", "--verbose", is_flag=True, help="Print timings on stderr.")
@click.option("-q", "--quiet", is_flag=True, help="No notices on stderr.")
@click.option(
    "--task",
    type=click.Choice(["text-generation", *TASKS]),
    default="text-generation",
    metavar="TASK",
    help=f"text-generation [default], {', '.join(TASKS)}.",
)
@judging_options
@engine_options
@debug_option
def run(prompt: str | None, file: Path | None, model: str | None, **given: Any) -> None:
    """Continue PROMPT with a GPT-2 and print the text as it comes.

    PROMPT comes from the argument, from -f FILE or from stdin. Text goes to stdout, all else to stderr.
    With another --task the text is judged by a model that was trained for it.

    \b
    gpt2kit run "Hello, I'm a language model"
    echo "Once upon a time" | gpt2kit run -m gpt2 --greedy -n 40
    gpt2kit run --task text-generation --model gpt2 --device 0 < prompt.txt
    gpt2kit run --task text-classification --model ./sentiment "A fine film."
    """
    refuse_foreign_options(given["task"])
    if given["task"] != "text-generation":
        judge(given["task"], prompt, file, model, given)
        return
    start = time.perf_counter()
    options = _generation_options(given)
    text = read_text(prompt, file, "prompt")
    pipe = load_model(model, given)
    clock = _Clock(start)
    shown_as_is = given["raw"] or not sys.stdout.isatty()
    rows = _generate(pipe, text, options, given, clock, shown_as_is)
    if given["as_json"]:
        print_json(_report(model, text, rows, pipe, clock))
    if given["verbose"]:
        _print_timings(rows, pipe, clock)


class _Clock:
    """The moments of a run, in seconds of perf_counter."""

    def __init__(self, start: float) -> None:
        self.start = start
        self.loaded = self.first_token = self.last_token = time.perf_counter()
        self.num_tokens = 0

    def tick(self) -> None:
        """Take note of a new token."""
        self.last_token = time.perf_counter()
        if self.num_tokens == 0:
            self.first_token = self.last_token
        self.num_tokens += 1

    def seconds(self) -> dict[str, float]:
        """Return the durations: everything, loading, the prompt with the first token, the other tokens."""
        return {
            "total_s": self.last_token - self.start,
            "load_s": self.loaded - self.start,
            "prompt_s": self.first_token - self.loaded,
            "generation_s": self.last_token - self.first_token,
        }


def _generation_options(given: dict[str, Any]) -> dict[str, Any]:
    options = {name: given[name] for name in _GENERATION if given[name] is not None}
    if given["early_stopping"] is not None:
        options["early_stopping"] = _EARLY_STOPPING[given["early_stopping"]]
    if given["assistant_model"] is not None:
        options["assistant_model"] = given["assistant_model"]
    has_beams = options.get("num_beams", 1) > 1
    choosing = _SAMPLING if has_beams else (*_SAMPLING, "num_return_sequences")
    if given["greedy"] or options.get("temperature") == 0.0:
        how = "--greedy" if given["greedy"] else "--temperature 0"
        for name in choosing:
            if name in options and not (name == "temperature" and options[name] == 0.0):
                raise click.UsageError(
                    f"{how} excludes --{name.replace('_', '-')}: there is nothing to choose"
                )
        options.pop("temperature", None)
        options["do_sample"] = False
    elif "penalty_alpha" in options:  # compares the top_k tokens and samples nothing
        options["do_sample"] = False
    elif any(name in options for name in choosing):
        options["do_sample"] = True
    elif has_beams:
        options["do_sample"] = False
    for name, owners in _NEEDS.items():
        if name in options and not any(owner in options for owner in owners):
            wanted = " or ".join(f"--{owner.replace('_', '-')}" for owner in owners)
            raise click.UsageError(f"--{name.replace('_', '-')} needs {wanted}")
    if given["keep_stop"] and not given["stop"]:
        raise click.UsageError("--keep-stop needs --stop")
    if given["stop"]:
        options["stop_strings"] = list(given["stop"])
    return options


def _generate(
    pipe: TextGenerationPipeline,
    text: str,
    options: dict[str, Any],
    given: dict[str, Any],
    clock: _Clock,
    shown_as_is: bool,
) -> list[Generated]:
    """Run the pipeline and print the text, streaming when there is one row."""
    own = pipe.model_config.num_return_sequences if pipe.model_config is not None else None
    num_rows = given["num_return_sequences"] or own or 1
    is_streamed = given["stream"] and not given["as_json"] and num_rows == 1

    is_echoed = not given["echo"]

    def write(piece: str) -> None:
        sys.stdout.write(piece if shown_as_is else visible(piece))
        sys.stdout.flush()

    def on_token(prompt_index: int, row: int, token_id: int) -> None:
        clock.tick()

    def on_text(prompt_index: int, row: int, piece: str) -> None:
        nonlocal is_echoed
        if not is_echoed:
            is_echoed = True
            write(text)
        if piece:
            write(piece)

    rows = pipe.generate(
        [text],
        seed=given["seed"],
        trim_stop_strings=not given["keep_stop"],
        on_token=on_token,
        on_text=on_text if is_streamed else None,
        **options,
    )
    if is_streamed:
        write("\n")
    elif not given["as_json"]:
        start = text if given["echo"] else ""
        write("\n---\n".join(start + (row.text or "") for row in rows) + "\n")
    return rows


def _report(
    model: str | None, prompt: str, rows: list[Generated], pipe: TextGenerationPipeline, clock: _Clock
) -> dict[str, Any]:
    num_prompt, num_new = rows[0].num_prompt_tokens, sum(len(row.ids) for row in rows)
    num_guessed, num_right = _num_guesses(rows)
    return {
        "model": model,
        "engine": engine_name(pipe),
        "prompt": prompt,
        "seed": rows[0].seed,
        "choices": [
            {
                "index": row.row,
                "text": row.text,
                "token_ids": row.ids,
                "finish_reason": row.finish_reason,
                "stop_string": row.stop_string,
                "score": row.score,
            }
            for row in rows
        ],
        "usage": {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_new,
            "total_tokens": num_prompt + num_new,
            "completion_tokens_details": {
                "accepted_prediction_tokens": num_right,
                "rejected_prediction_tokens": num_guessed - num_right,
            },
        },
        "timings": {name: round(value, 6) for name, value in clock.seconds().items()},
    }


def _print_timings(rows: list[Generated], pipe: TextGenerationPipeline, clock: _Clock) -> None:
    seconds = clock.seconds()
    num_prompt = rows[0].num_prompt_tokens
    num_later = clock.num_tokens - 1
    lines = {
        "engine": engine_name(pipe),
        "seed": str(rows[0].seed),
        "finish reason": ", ".join(row.finish_reason for row in rows),
        "total duration": f"{seconds['total_s']:.3f} s",
        "load duration": f"{seconds['load_s']:.3f} s",
        "prompt eval count": f"{num_prompt} token(s)",
        "prompt eval duration": f"{seconds['prompt_s']:.3f} s",
        "prompt eval rate": _rate(num_prompt, seconds["prompt_s"]),
        "eval count": f"{clock.num_tokens} token(s)",
        "eval duration": f"{seconds['generation_s']:.3f} s",
        "eval rate": _rate(num_later, seconds["generation_s"]),
    }
    num_guessed, num_right = _num_guesses(rows)
    if num_guessed:
        lines["guessed ahead"] = f"{num_guessed} token(s), {num_right} of them right"
    for name, value in lines.items():
        click.echo(f"{name + ':':<22}{value}", err=True)


def _num_guesses(rows: list[Generated]) -> tuple[int, int]:
    """Return how many tokens were guessed ahead and how many of those were right."""
    return sum(row.num_guessed for row in rows), sum(row.num_right for row in rows)


def _rate(count: int, seconds: float) -> str:
    return f"{count / seconds:.1f} tokens/s" if count > 0 and seconds > 0 else "-"
