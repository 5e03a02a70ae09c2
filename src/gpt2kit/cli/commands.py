"""The table of commands. A command's module is imported when it runs, or when its own help is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

import gpt2kit
from gpt2kit.cli.console import OutputClosed

# Name -> where the click command is, and its line in the help.
COMMANDS = {
    "run": ("gpt2kit.cli.run:run", "Continue a text."),
    "score": ("gpt2kit.cli.score:score", "Tell how probable a text is."),
    "tokenize": ("gpt2kit.cli.tokenize:tokenize", "Turn text into token ids, or back."),
    "quantize": ("gpt2kit.cli.quantize:quantize", "Write a model in fewer bits."),
    "info": ("gpt2kit.cli.info:info", "Describe a model, or this installation."),
    "bench": ("gpt2kit.cli.bench:bench", "Time a model, beside what the machine could do."),
    "completion": ("gpt2kit.cli.completion:completion", "Print the completion script of a shell."),
}


class CommandTable(click.Group):
    """A group that reads COMMANDS."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command and return it, or None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the arguments and print help; see _named_pipe_failure."""
        with _named_pipe_failure():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; see _named_pipe_failure."""
        with _named_pipe_failure():
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table, importing none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@contextmanager
def _named_pipe_failure() -> Iterator[None]:
    """Give a closed pipe a name of ours; click would end the process with exit code 1."""
    try:
        yield
    except BrokenPipeError as error:
        raise OutputClosed from error


@click.command(
    cls=CommandTable, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(gpt2kit.__version__, prog_name="gpt2kit", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of a failure.")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """GPT-2, complete.

    \b
    gpt2kit run "Hello, I'm a language model"
    cat story.txt | gpt2kit run -m gpt2 -n 100
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
