"""gpt2kit quantize: a model in fewer bits, as a folder that loads at once."""

from __future__ import annotations

from pathlib import Path

import click

from gpt2kit.cli.console import notice, print_json
from gpt2kit.cli.options import debug_option, json_option


@click.command()
@click.argument("model")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--format", type=click.Choice(["int8", "nf4", "bf16"]), default="int8", help="[int8]")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a model on the hub.")
@click.option("--allow-pickle", is_flag=True, help="Also read pytorch_model.bin; only for files you trust.")
@click.option("-q", "--quiet", is_flag=True, help="No notices on stderr.")
@json_option
@debug_option
def quantize(
    model: str,
    output: Path,
    format: str,
    revision: str | None,
    allow_pickle: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write MODEL, a folder or a name on the hub, into the folder OUTPUT in fewer bits.

    int8 and nf4 are for the native engine alone; bf16 is read by every tool.

    \b
    gpt2kit quantize gpt2 gpt2-int8
    gpt2kit run -m gpt2-int8 "Hello, I'm"
    """
    from gpt2kit.checkpoint import open_checkpoint
    from gpt2kit.engine import quantize_folder

    checkpoint = open_checkpoint(model, revision=revision, allow_pickle=allow_pickle)
    files = quantize_folder(checkpoint, output, format)
    facts = {
        "folder": str(output),
        "format": format,
        "bytes_before": checkpoint.file_bytes,
        "bytes": sum((output / name).stat().st_size for name in files if name.endswith(".safetensors")),
        "files": files,
    }
    if as_json:
        print_json(facts)
    elif not quiet:
        notice(f"{output}: {facts['bytes']} bytes of weights in {format}, before {facts['bytes_before']}")
