"""gpt2kit bench: how fast a model runs, and how much of what the machine can do that is."""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from gpt2kit.cli.console import notice, print_json
from gpt2kit.cli.options import compute_option, debug_option, json_option, kv_cache_option

if TYPE_CHECKING:
    from gpt2kit.benchmark.measure import Limits, Phase, Report
    from gpt2kit.checkpoint import Checkpoint
    from gpt2kit.engine import NativeEngine

_DTYPE_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@click.command()
@click.argument("model", required=False)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    help="What the weights are converted to; auto leaves them as they are [auto].",
)
@click.option("--quant", type=click.Choice(["int8", "nf4"]), help="Quantise the weights.")
@compute_option
@kv_cache_option
@click.option("--prompt", type=click.IntRange(min=1), metavar="N", help="Tokens of the prompt [512].")
@click.option("--decode", type=click.IntRange(min=1), metavar="N", help="New tokens of a generation [128].")
@click.option(
    "--context", type=click.IntRange(min=1), metavar="N", help="Tokens that stand before the new ones [128]."
)
@click.option(
    "--batch",
    type=click.IntRange(min=1, max=4096),
    default=1,
    metavar="N",
    help="Also decode N rows together.",
)
@click.option("--threads", type=click.IntRange(min=1, max=1024), metavar="N", help="[all processors]")
@click.option(
    "--repeats", type=click.IntRange(min=1), default=5, metavar="N", help="Rounds; the medians count [5]."
)
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a model on the hub.")
@click.option("--allow-pickle", is_flag=True, help="Also read pytorch_model.bin; only for files you trust.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="No notices on stderr.")
@debug_option
def bench(model: str | None, **given: Any) -> None:
    """Time MODEL (a folder, or a name on the hub; without it, the built-in one) in the native engine.

    A prompt, decoding, and the machine in the same minute: how fast its threads read the pages of the
    weights, and how fast they calculate. The answers are checked first. docs/performance.md says how to
    read the figures. Lengths that are not given are shortened to what the model can hold.

    \b
    gpt2kit bench gpt2
    gpt2kit bench gpt2 --dtype bfloat16 --batch 8 --threads 2
    """
    # What is imported here is part of the time that loading takes.
    start = time.perf_counter()
    from gpt2kit import builtin
    from gpt2kit.checkpoint import open_checkpoint
    from gpt2kit.engine import NativeEngine, load_engine

    if model is None and not given["quiet"]:
        notice("no model given: timing the small built-in model")
    checkpoint = open_checkpoint(
        builtin.path() if model is None else model,
        revision=given["revision"],
        allow_pickle=given["allow_pickle"],
    )
    engine = load_engine(
        checkpoint,
        dtype=given["dtype"],
        quant=given["quant"],
        threads=given["threads"],
        engine="native",
        compute=given["compute"],
        kv_cache_dtype=given["kv_cache_dtype"],
    )
    load_s = time.perf_counter() - start
    assert isinstance(engine, NativeEngine)
    from gpt2kit.benchmark.measure import Settings, measure

    lengths = {name: given[name] for name in ("prompt", "decode", "context", "batch", "repeats")}
    report = measure(engine, Settings.fitting(engine.config, **lengths))
    name = "built-in" if model is None else os.path.basename(os.path.normpath(model))
    precision = given["quant"] or _precision(checkpoint, given["dtype"])
    if given["as_json"]:
        print_json(_facts(name, precision, engine, load_s, report), indent=None)
    else:
        _print(name, precision, engine, load_s, report)


def _precision(checkpoint: Checkpoint, dtype: str) -> str:
    """Return the dtype of most of the weights."""
    if dtype != "auto":
        return dtype
    sizes: Counter[str] = Counter()
    for tensor in map(checkpoint.info, checkpoint.names()):
        sizes[tensor.dtype] += tensor.nbytes
    most = sizes.most_common(1)[0][0]
    return _DTYPE_NAMES.get(most, most)


def _facts(name: str, precision: str, engine: NativeEngine, load_s: float, report: Report) -> dict[str, Any]:
    settings, limits = report.settings, report.limits
    phases = _phases(report)
    return {
        "peer": "gpt2kit",
        "size": name,
        "precision": precision,
        "kv_cache_dtype": engine.kv_cache_dtype,
        "threads": engine.threads,
        "load_s": round(load_s, 3),
        "prefill_tokens_per_s": round(report.prefill.median, 1),
        "decode_tokens_per_s": round(report.decode.median, 1),
        "batch_decode_tokens_per_s": None if report.batch is None else round(report.batch.median, 1),
        "first_token_s": round(report.first_token_s, 5),
        "rss_mb": report.peak_rss_bytes // 2**20,
        "isa": engine.isa,
        "prompt": settings.prompt,
        "decode": settings.decode,
        "context": settings.context,
        "batch": settings.batch,
        "repeats": settings.repeats,
        "weights_bytes": sum(array.nbytes for array in engine.weights.values()),
        "limits": {
            "read_bytes_per_s": _best_and_median(limits.read_bytes_per_s),
            "operations_per_s": {
                kind: _best_and_median(rates) for kind, rates in limits.operations_per_s.items()
            },
        },
        "phases": {
            name: {
                "tokens_per_s": [round(speed, 1) for speed in phase.tokens_per_s],
                "bytes_per_token": round(phase.work.read_bytes),
                "operations_per_token": round(phase.work.operations),
                "reached": {limit: round(part, 4) for limit, part in phase.reached(limits).items()},
            }
            for name, phase in phases.items()
        },
    }


def _phases(report: Report) -> dict[str, Phase]:
    phases = {"prefill": report.prefill, "decode": report.decode}
    return phases if report.batch is None else {**phases, "batch_decode": report.batch}


def _best_and_median(rates: list[float]) -> dict[str, int]:
    return {"best": round(max(rates)), "median": round(statistics.median(rates))}


def _print(name: str, precision: str, engine: NativeEngine, load_s: float, report: Report) -> None:
    settings = report.settings
    weights_mb = sum(array.nbytes for array in engine.weights.values()) / 1e6
    threads = f"{engine.threads} thread{'s' if engine.threads > 1 else ''}"
    cache = "" if engine.kv_cache_dtype == "float32" else f"keys and values in {engine.kv_cache_dtype}, "
    click.echo(
        f"{name}: {weights_mb:,.1f} MB of weights in {precision}, {cache}{engine.isa}, {threads}, "
        f"medians of {settings.repeats} rounds\n"
    )
    titles = {
        "prefill": f"prefill, {settings.prompt} tokens",
        "decode": f"decode, {settings.decode} after {settings.context}",
        "batch_decode": f"decode, {settings.batch} rows, in all",
    }
    rows = [["", "tokens/s", "GB/s", "of reading", *_arithmetic_titles(report.limits)]]
    for phase_name, phase in _phases(report).items():
        rows.append([titles[phase_name], *_phase_cells(phase, report.limits)])
    rows += _limit_rows(report.limits)
    _print_table(rows)
    click.echo(
        f"\nload {load_s:.3f} s, first token after {report.first_token_s:.4f} s, "
        f"peak memory {report.peak_rss_bytes / 2**20:,.0f} MB"
    )


def _arithmetic_titles(limits: Limits) -> list[str]:
    return ["Gop/s", *(f"of {kind}" for kind in limits.operations_per_s)]


def _phase_cells(phase: Phase, limits: Limits) -> list[str]:
    reached = {name: f"{part:.1%}" for name, part in phase.reached(limits).items()}
    read = reached.pop("read")
    speed = phase.median
    return [
        f"{speed:,.1f}",
        f"{speed * phase.work.read_bytes / 1e9:.1f}",
        read,
        f"{speed * phase.work.operations / 1e9:,.0f}",
        *reached.values(),
    ]


def _limit_rows(limits: Limits) -> list[list[str]]:
    rows = []
    for title, pick in (("machine, best round", max), ("machine, median", statistics.median)):
        arithmetic = [f"{pick(rates) / 1e9:,.0f}" for rates in limits.operations_per_s.values()]
        rows.append([title, "", f"{pick(limits.read_bytes_per_s) / 1e9:.1f}", "", "", *arithmetic])
    return rows


def _print_table(rows: list[list[str]]) -> None:
    """Print columns two spaces apart: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        click.echo("  ".join(cells).rstrip())
