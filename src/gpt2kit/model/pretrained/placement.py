"""device_map: which device holds which part of a model. What is spread over several is moved by accelerate.

A map names modules and gives each a device; the longest name that fits a weight decides. "disk" keeps weights
in files of offload_folder and reads them when they are used.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gpt2kit.errors import ConfigError, MissingDependencyError

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
# Modules that must not be cut in two: what goes around them is added to what comes out.
NO_SPLIT = ["GPT2Block"]
Place = torch.device | Literal["disk"]


@dataclass
class Placement:
    """Where the weights of one model go. device_map is what the caller or a strategy said, by module.

    names: of each weight, the other names of the same tensor.
    """

    device_map: dict[str, Place]
    names: dict[str, list[str]]
    offload_folder: str | os.PathLike[str] | None = None
    offload_buffers: bool = False

    def __post_init__(self) -> None:
        self._index: dict[str, Any] = {}  # accelerate's list of what is in offload_folder

    @property
    def is_spread(self) -> bool:
        """Whether there is more to do than to move the model as a whole."""
        return len(set(self.device_map.values())) > 1 or "disk" in self.device_map.values()

    def place(self, name: str) -> Place:
        """Give the place of a weight."""
        found = _longest(name, self.device_map)
        assert found is not None  # plan() has looked
        return self.device_map[found]

    def keep(self, name: str, values: Tensor) -> Tensor:
        """Put a weight that has just been read where it belongs; what lies on disk is meta in the model."""
        place = self.place(name)
        if isinstance(place, torch.device):
            return values.to(place)
        from accelerate.utils import offload_weight

        assert self.offload_folder is not None  # plan() has looked
        os.makedirs(self.offload_folder, exist_ok=True)
        for known_as in (name, *self.names[name]):
            offload_weight(values, known_as, self.offload_folder, index=self._index)
        return values.to("meta")

    def finish(self, model: nn.Module) -> None:
        """Let accelerate move weights and activations, where the model is spread."""
        if not self.is_spread:
            return
        from accelerate import dispatch_model

        places = {name: _for_accelerate(place) for name, place in self._parts(model, "", None).items()}
        dispatch_model(
            model,
            places,
            offload_dir=self.offload_folder,
            offload_index=self._index or None,
            offload_buffers=self.offload_buffers,
            skip_keys="past_key_values",
        )

    def _parts(self, module: nn.Module, name: str, place: Place | None) -> dict[str, Place]:
        """Give the map without a module around another one, of which accelerate would lose the rest."""
        place = self.device_map.get(name, place)
        inside = f"{name}." if name else ""
        if place is not None and not any(
            part != name and part.startswith(inside) for part in self.device_map
        ):
            return {name: place}
        parts: dict[str, Place] = {}
        for child, submodule in module.named_children():
            parts |= self._parts(submodule, f"{inside}{child}", place)
        return parts


def plan(
    model: nn.Module,
    device_map: str | int | torch.device | Mapping[str, Any] | None,
    *,
    max_memory: Mapping[Any, int | str] | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
    offload_buffers: bool = False,
) -> Placement:
    """Decide where the weights of a model go; it may still be on the meta device.

    device_map: None for torch's default device, which is the CPU unless the caller chose another; a device for the whole model; a mapping from modules to devices or "disk";
    or a strategy: "auto" and "balanced" fill the accelerators evenly, "balanced_low_0" keeps the first free,
    "sequential" fills one after the other. max_memory gives the bytes ("10GB") of each device for a strategy.

    Raises ConfigError for a device that is not there and for a map that leaves weights out, and
    MissingDependencyError where accelerate is needed and not installed.
    """
    if isinstance(device_map, str) and device_map in STRATEGIES:
        places = _choose(model, device_map, max_memory)
    elif max_memory is not None:
        raise ConfigError(f"max_memory needs a device_map of {', '.join(STRATEGIES)}; it is {device_map!r}")
    elif isinstance(device_map, Mapping):
        places = {name: _place(place) for name, place in device_map.items()}
    elif device_map is None:
        places = {"": _default_device()}
    else:
        places = {"": as_device(device_map)}
    placement = Placement(places, _names(model), offload_folder, offload_buffers)
    _check(model, placement)
    return placement


def as_device(device: str | int | torch.device) -> torch.device:
    """Give the device of a name or number, after looking whether this machine has it."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    here = "cpu" if accelerator is None else f"cpu and {accelerator.type}"
    try:
        if device == "auto":
            return accelerator or torch.device("cpu")
        kind = accelerator.type if accelerator else "cuda"
        wanted = torch.device(f"{kind}:{device}" if isinstance(device, int) else device)
    except (RuntimeError, TypeError):
        raise ConfigError(f"device is {device!r}; this machine has {here}") from None
    count = (
        torch.accelerator.device_count() if accelerator is not None and wanted.type == accelerator.type else 0
    )
    if wanted.type != "cpu" and (wanted.index or 0) >= count:
        raise ConfigError(f"device is {str(device)!r}; this machine has {here}")
    return wanted


def _default_device() -> torch.device:
    device = torch.get_default_device()
    if device.type == "meta":
        raise ConfigError(
            "from_pretrained reads weights, and the default device is 'meta', which holds none; leave "
            "torch.device('meta'), or use from_config for a model without weights"
        )
    return device


def _choose(model: nn.Module, strategy: str, max_memory: Mapping[Any, int | str] | None) -> dict[str, Place]:
    if max_memory is None and not torch.accelerator.is_available():
        return {"": torch.device("cpu")}
    if find_spec("accelerate") is None and max_memory is None and torch.accelerator.device_count() == 1:
        return {"": as_device("auto")}
    _need_accelerate(f"device_map={strategy!r}")
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory, get_max_memory

    memory = None if max_memory is None else dict(max_memory)
    if strategy == "sequential":
        memory = get_max_memory(memory)
    else:
        memory = get_balanced_memory(
            model, memory, no_split_module_classes=NO_SPLIT, low_zero=strategy == "balanced_low_0"
        )
    found = infer_auto_device_map(model, memory, no_split_module_classes=NO_SPLIT)
    return {name: _place(place) for name, place in found.items()}


def _check(model: nn.Module, placement: Placement) -> None:
    modules = {name for name, _ in model.named_modules()}
    weights = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    unknown = [name for name in placement.device_map if name not in modules]
    if unknown:
        raise ConfigError(
            f"device_map names {unknown[0]!r}; {type(model).__name__} has no such module: "
            f"its parts are {', '.join(name for name, _ in model.named_children())}"
        )
    left_out = [name for name in weights if _longest(name, placement.device_map) is None]
    if left_out:
        raise ConfigError(
            f"device_map gives no device to {left_out[0]} ({len(left_out)} weights); name every module, or the "
            "rest with ''"
        )
    if placement.is_spread:
        _need_accelerate("a device_map of several devices or of disk")
    if "disk" not in placement.device_map.values():
        return
    if placement.offload_folder is None:
        raise ConfigError(
            "device_map puts modules on disk; give offload_folder, where their weights are kept"
        )
    for name, others in placement.names.items():
        places = {placement.place(known_as) for known_as in (name, *others)}
        if len(places) > 1 and "disk" in places:
            raise ConfigError(
                f"device_map puts {name} and {others[0]} in two places, one of them disk; they are one tensor"
            )


def _names(model: nn.Module) -> dict[str, list[str]]:
    """Give the first name of every weight with its other names, if it is tied."""
    first: dict[int, str] = {}
    names: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known_as = first.setdefault(id(parameter), name)
        if known_as == name:
            names[name] = []
        else:
            names[known_as].append(name)
    return names


def _place(place: Any) -> Place:
    return "disk" if place == "disk" else as_device(place)


def _for_accelerate(place: Place) -> str | int:
    if isinstance(place, torch.device) and place.type != "cpu":
        return place.index or 0
    return str(place)


def _longest(name: str, device_map: Mapping[str, Any]) -> str | None:
    """Give the longest name in the map that is the weight's or that of a module around it."""
    while name not in device_map:
        if not name:
            return None
        name = name.rpartition(".")[0]
    return name


def _need_accelerate(what: str) -> None:
    if find_spec("accelerate") is None:
        raise MissingDependencyError(f"{what} needs accelerate: pip install accelerate")
