"""The activation functions that a GPT-2 configuration may name."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2kit.errors import ConfigError


def get_activation(name: str, setting: str = "activation_function") -> Callable[[Tensor], Tensor]:
    """Return the function that Transformers knows by this name; `setting` says where it was named."""
    if name not in ACTIVATIONS:
        allowed = ", ".join(sorted(ACTIVATIONS))
        reason = (
            "has weights of its own, which no GPT-2 checkpoint holds"
            if name in _WITH_WEIGHTS
            else "is unknown"
        )
        raise ConfigError(f"{setting} {name!r} {reason}; it must be one of {allowed}")
    return ACTIVATIONS[name]


def gelu_new(x: Tensor) -> Tensor:
    """GELU by tanh, as OpenAI trained GPT-2 with."""
    return F.gelu(x, approximate="tanh")


def gelu_fast(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def gelu_10(x: Tensor) -> Tensor:
    return torch.clamp(F.gelu(x), -10.0, 10.0)


def gelu_accurate(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


def laplace(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2.0))))


def relu2(x: Tensor) -> Tensor:
    return torch.square(F.relu(x))


def sqrtsoftplus(x: Tensor) -> Tensor:
    return torch.sqrt(F.softplus(x))


def linear(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_10": gelu_10,
    "gelu_accurate": gelu_accurate,
    "gelu_fast": gelu_fast,
    "gelu_new": gelu_new,
    "gelu_python": F.gelu,
    "gelu_pytorch_tanh": gelu_new,
    "gelu_python_tanh": gelu_new,
    "hardswish": F.hardswish,
    "laplace": laplace,
    "leaky_relu": F.leaky_relu,
    "linear": linear,
    "mish": F.mish,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "relu2": relu2,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "sqrtsoftplus": sqrtsoftplus,
    "swish": F.silu,
    "tanh": torch.tanh,
}
_WITH_WEIGHTS = ("prelu", "xielu")
