"""Where a pipeline runs: `device=` as Transformers takes it, turned into an engine and a torch device."""

from __future__ import annotations

import importlib.util
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2kit.errors import EngineError

_TYPES = ("cuda", "mps", "xpu")
# Values of device_map that leave the placing to torch's loader, where there is an accelerator to place on.
_PLANS = ("auto", "balanced", "balanced_low_0", "sequential")


def needs_placing(device_map: Any) -> bool:
    """Tell whether a device_map is for torch's loader: a plan, or a dict that names more than the CPU."""
    if isinstance(device_map, Mapping):
        return any(str(place) != "cpu" for place in device_map.values())
    return isinstance(device_map, str) and device_map in _PLANS and _accelerator() is not None


def choose_device(device: Any) -> str:
    """Return "cpu" or the name of a torch device for what Transformers calls `device` or `device_map`.

    None, -1, "cpu", "auto" and its like are the CPU, and so is a device_map of CPUs. A number is that accelerator; without one it falls back to the
    CPU with one warning. A named accelerator ("cuda", "cuda:1", "mps", "xpu:0") that is not there is an
    EngineError.
    """
    kind = getattr(device, "type", None)  # a torch.device
    if isinstance(kind, str):
        device = str(device)
    if isinstance(device, Mapping) and device and not needs_placing(device):
        return "cpu"
    if device is None or (isinstance(device, (int, str)) and device in (-1, "cpu", *_PLANS)):
        return "cpu"
    if isinstance(device, str) and device.isdigit():
        device = int(device)
    if isinstance(device, int) and not isinstance(device, bool) and device >= 0:
        accelerator = _accelerator()
        if accelerator is None:
            warnings.warn(
                f"device {device} was asked for, but there is no accelerator; using the CPU", stacklevel=3
            )
            return "cpu"
        return f"{accelerator}:{device}"
    if isinstance(device, str) and re.fullmatch(rf"({'|'.join(_TYPES)})(:\d+)?", device):
        accelerator = _accelerator()
        if accelerator != device.split(":")[0]:
            raise EngineError(f"device {device!r} is not available here; use device='cpu' or leave it out")
        return device
    raise EngineError(
        f"device must be None, -1 or 'cpu', the number of an accelerator, or one of {', '.join(_TYPES)} "
        f"with an optional ':number'; got {device!r}"
    )


def _accelerator() -> str | None:
    """Return the kind of accelerator that torch can use; imports torch only when there may be one."""
    has_hardware = sys.platform != "linux" or any(
        next(Path(folder).glob(pattern), None) is not None
        for folder, pattern in [
            ("/dev", "nvidia[0-9]*"),
            ("/dev", "kfd"),
            ("/dev/dri", "renderD*"),
            ("/dev", "dxg"),
        ]
    )
    if not has_hardware or importlib.util.find_spec("torch") is None:
        return None
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    if torch.xpu.is_available():
        return "xpu"
    return None
