"""gpt2kit completion: print the completion script of a shell."""

from __future__ import annotations

import click

from gpt2kit.cli.options import debug_option


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@debug_option
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash   gpt2kit completion bash > ~/.local/share/bash-completion/completions/gpt2kit
    zsh    gpt2kit completion zsh > "${fpath[1]}/_gpt2kit"
    fish   gpt2kit completion fish > ~/.config/fish/completions/gpt2kit.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # click has all three
    click.echo(kind(ctx.find_root().command, {}, "gpt2kit", "_GPT2KIT_COMPLETE").source())
