"""PreTrainedModel: a torch module with a configuration that can be read from and written to a folder."""

from typing import Any

from torch import nn

from ..config import GPT2Config
from ..errors import ConfigError

ATTN_IMPLEMENTATIONS = ("sdpa", "eager")


class PreTrainedModel(nn.Module):
    """A model with its configuration."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.set_attn_implementation(getattr(config, "_attn_implementation", None) or "sdpa")

    def set_attn_implementation(self, name: str) -> None:
        """Choose how attention is computed: "sdpa" (fused, the default) or "eager" (written out)."""
        if name not in ATTN_IMPLEMENTATIONS:
            raise ConfigError(f"attn_implementation is {name!r}; it must be one of {', '.join(ATTN_IMPLEMENTATIONS)}")
        for module in self.modules():
            if isinstance(module, PreTrainedModel):
                module.attn_implementation = name

    def num_parameters(self) -> int:
        """Number of weights, a tied head counted once."""
        return sum(p.numel() for p in self.parameters())

    def _asks(self, field: str, argument: bool | None) -> bool:
        """An argument's value, or the configuration's when it was not given."""
        default: Any = field == "return_dict"
        return bool(getattr(self.config, field, default)) if argument is None else argument
