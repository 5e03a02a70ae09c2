"""gpt2kit info: what a model folder holds, or what this installation is."""

from __future__ import annotations

import os
import platform
from collections import Counter
from pathlib import Path
from typing import Any

import click

from gpt2kit.cli.console import print_json
from gpt2kit.cli.options import debug_option, json_option

# The packages that decide what works; the first is ours, the last ones are optional.
_PACKAGES = (
    "gpt2kit",
    "numpy",
    "safetensors",
    "huggingface_hub",
    "click",
    "torch",
    "tokenizers",
    "transformers",
)
_FEATURES = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
)
_SHAPE = ("n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size", "activation_function")


@click.command()
@click.argument("model", required=False)
@click.option("--builtin", "is_builtin", is_flag=True, help="Describe the built-in model.")
@click.option("--allow-pickle", is_flag=True, help="Also read pytorch_model.bin; only for files you trust.")
@json_option
@debug_option
def info(model: str | None, is_builtin: bool, allow_pickle: bool, as_json: bool) -> None:
    """Describe MODEL (a folder, or a name on the hub); without it, this installation.

    \b
    gpt2kit info
    gpt2kit info gpt2
    gpt2kit info --json ./my-model
    """
    if model is not None and is_builtin:
        raise click.UsageError("Give a model or --builtin, not both")
    if is_builtin:
        from gpt2kit import builtin

        facts = model_facts(builtin.path(), allow_pickle=False)
    elif model is not None:
        facts = model_facts(model, allow_pickle=allow_pickle)
    else:
        facts = installation_facts()
    if as_json:
        print_json(facts)
    else:
        _print(facts)


def model_facts(model: str | Path, *, allow_pickle: bool) -> dict[str, Any]:
    """Return what a model folder holds; opens the weights file but reads no weight."""
    from gpt2kit.checkpoint import open_checkpoint
    from gpt2kit.checkpoint.names import quantized_weight, trunk_shapes

    checkpoint = open_checkpoint(model, allow_pickle=allow_pickle)
    config = checkpoint.config
    tensors = [checkpoint.info(name) for name in checkpoint.names()]
    shapes = {tensor.name: tensor.shape for tensor in tensors if quantized_weight(tensor.name) is None}
    shapes.update({name: shape for name, shape in trunk_shapes(config).items() if name in shapes})
    files = sorted(path for path in checkpoint.folder.iterdir() if path.is_file())
    return {
        "model": str(model),
        "folder": str(checkpoint.folder),
        "config": {name: getattr(config, name) for name in _SHAPE},
        "parameters": sum(map(_num_elements, shapes.values())),
        "tensors": len(tensors),
        "dtypes": dict(Counter(tensor.dtype for tensor in tensors)),
        "weights_bytes": checkpoint.file_bytes,
        "files": {path.name: path.stat().st_size for path in files},
    }


def installation_facts() -> dict[str, Any]:
    """Return versions, processor and folders; imports none of the packages it names."""
    from importlib.metadata import PackageNotFoundError, version

    import gpt2kit

    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = gpt2kit.__version__ if package == "gpt2kit" else None
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "versions": versions,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cpu_features": _cpu_features(),
        "native": _native_facts(),
        "threads": len(affinity(0)) if affinity is not None else os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "cache_folder": str(_cache_folder()),
        "offline": os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"),
    }


def _native_facts() -> dict[str, Any]:
    try:
        from gpt2kit import _native
    except ImportError as error:
        return {"available": False, "reason": str(error)}
    from gpt2kit.engine.quant_cache import cache_folder, entries

    folder = cache_folder()
    return {
        "available": True,
        "isa": _native.isa(),
        "supported_isas": list(_native.supported_isas()),
        "cache_folder": None if folder is None else str(folder),
        "cache_bytes": 0 if folder is None else sum(entries(folder).values()),
    }


def _cache_folder() -> Path:
    """Return huggingface_hub's cache folder by its own rules, without importing it."""
    if os.environ.get("HF_HUB_CACHE"):
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(base, "huggingface")
    return Path(home).expanduser() / "hub"


def _processor() -> str:
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cpu_features() -> list[str]:
    for line in _cpuinfo():
        if line.startswith(("flags", "Features")):
            present = set(line.partition(":")[2].split())
            return [name for name in _FEATURES if name in present]
    return []


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(errors="replace").splitlines() if path.is_file() else []


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _num_elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _print(facts: dict[str, Any], indent: str = "") -> None:
    """Print facts as `name: value` lines, inner ones indented."""
    for name, value in facts.items():
        label = f"{indent}{name if indent else name.replace('_', ' ')}:"
        if isinstance(value, dict):
            click.echo(label)
            _print(value, indent + "  ")
        else:
            click.echo(f"{label:<24} {_readable(name, value)}")


def _readable(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(str(item) for item in value) or "-"
    if isinstance(value, int) and (name.endswith("_bytes") or "." in name):
        return f"{value:,} bytes"
    return f"{value:,}" if isinstance(value, int) else str(value)
