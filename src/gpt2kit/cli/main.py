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

import gc
import os
import sys
from collections.abc import Sequence

OK, FAILURE, USAGE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141


def process() -> int:
    """Do as main() does, for a process that does nothing else."""
    # Starting makes many objects and no garbage; looking for some takes a tenth of the start, and of the end.
    gc.set_threshold(100_000)
    try:
        return main()
    finally:
        gc.freeze()


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; `args` default to those of the process."""
    arguments = list(sys.argv[1:] if args is None else args)
    # numpy's BLAS is never called on the way to a text; without its threads numpy loads a fifth faster.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        _drop_unwritable_output()


def _run(arguments: list[str]) -> int:
    import warnings

    import click

    from gpt2kit.cli.console import OutputClosed, complain, notice, set_up_streams
    from gpt2kit.errors import GPT2Error

    set_up_streams()
    asked = os.environ.get("GPT2KIT_DEBUG", "").lower()
    is_debug = "--debug" in arguments or asked in ("1", "on", "yes", "true")
    try:
        from gpt2kit.cli.commands import cli

        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *args, **kwargs: notice(str(message))
            result = cli.main(arguments, prog_name="gpt2kit", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else OK
    except click.Abort:
        return INTERRUPTED
    except (OutputClosed, BrokenPipeError):
        return BROKEN_PIPE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "gpt2kit"
        complain(f"{error.format_message().rstrip('.')}; see '{path} --help'", path=path)
        return USAGE
    except click.ClickException as error:
        complain(error.format_message())
        return FAILURE
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


def _drop_unwritable_output() -> None:
    """Send output that cannot be written to nowhere, so that Python does not complain about it at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
