"""main(): the edge of the process: exit codes, one-line errors, signals and pipes.

    0    done
    1    a known failure, explained in one line on stderr
    2    wrong usage
    130  interrupted with Ctrl-C
    141  the reader of the output has gone

--debug or GPT2KIT_DEBUG=1 adds the traceback. This module imports nothing heavy, so that an interrupt is
handled from the first moment on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

OK, FAILURE, USAGE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; `args` default to those of the process."""
    arguments = list(sys.argv[1:] if args is None else args)
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return BROKEN_PIPE


def _run(arguments: list[str]) -> int:
    import click

    from gpt2kit.cli.console import complain, set_up_streams
    from gpt2kit.errors import GPT2Error

    set_up_streams()
    is_debug = "--debug" in arguments or os.environ.get("GPT2KIT_DEBUG", "").lower() in (
        "1",
        "on",
        "yes",
        "true",
    )
    try:
        from gpt2kit.cli.commands import cli

        result = cli.main(arguments, prog_name="gpt2kit", standalone_mode=False)
        return result if isinstance(result, int) else OK
    except click.Abort:
        return INTERRUPTED
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "gpt2kit"
        complain(f"{error.format_message().rstrip('.')}; see '{path} --help'", path=path)
        return USAGE
    except click.ClickException as error:
        complain(error.format_message())
        return FAILURE
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except Exception as error:
        if is_debug:
            import traceback

            traceback.print_exc()
        if isinstance(error, (GPT2Error, OSError)):
            complain(str(error))
        elif isinstance(error, MemoryError):
            complain("not enough memory; use a smaller model, or fewer rows at once")
        else:
            hint = "" if is_debug else "; --debug shows where, please report it"
            complain(f"unexpected {type(error).__name__}: {error}{hint}")
        return FAILURE


def _discard_output() -> None:
    """Send what is still buffered to nowhere, so that Python does not complain at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
