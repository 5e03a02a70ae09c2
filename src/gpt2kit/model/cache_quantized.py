"""Keys and values in 8 or 4 bits: the newest positions as they are, older ones as integers.

Each head of each position is cut into groups of neighbouring channels; a group is stored as integers from 0 to
2**nbits - 1 between its smallest and largest value. A value is off by at most half a step, which is
(largest - smallest) / (2**nbits - 1) / 2, besides rounding to the cache's dtype. A position is quantised once
and never again, whatever comes after it.

B batch, H heads, T and S positions, D head size, G groups in a head.
"""

import torch
from torch import Tensor

from gpt2kit.model.cache_layers import DynamicLayer, GrowingTensor, checked_crop


def group_shape(head_size: int, group_size: int, nbits: int) -> tuple[int, int]:
    """Number of groups in a head and channels in each: equal, at most group_size, whole bytes."""
    num_groups = -(-head_size // group_size)
    channels = -(-head_size // num_groups)
    return num_groups, channels + channels % 2 if nbits == 4 else channels


def quantize(x: Tensor, nbits: int, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return x (B, H, T, D) as codes uint8 (B, H, T, bytes), and step and lowest value float32 (B, H, T, G)."""
    B, H, T, D = x.shape
    num_groups, channels = group_shape(D, group_size, nbits)
    # The last channel repeated does not widen its group.
    padding = x[..., -1:].expand(B, H, T, num_groups * channels - D)
    groups = torch.cat((x, padding), dim=-1).float().view(B, H, T, num_groups, channels)
    low, high = groups.amin(dim=-1, keepdim=True), groups.amax(dim=-1, keepdim=True)
    largest = 2**nbits - 1
    step = (high - low) / largest
    codes = ((groups - low) / step.clamp_min(torch.finfo(torch.float32).tiny)).round().clamp(0, largest)
    codes = codes.to(torch.uint8).flatten(-2)
    if nbits == 4:
        codes = codes[..., 0::2] | codes[..., 1::2] << 4
    return codes, step.squeeze(-1), low.squeeze(-1)


def dequantize(codes: Tensor, step: Tensor, low: Tensor, nbits: int, head_size: int) -> Tensor:
    """Undo quantize, to float32 (B, H, T, head_size)."""
    if nbits == 4:
        codes = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(-2)
    num_groups = step.shape[-1]
    groups = codes.view(*step.shape, codes.shape[-1] // num_groups) * step[..., None] + low[..., None]
    return groups.flatten(-2)[..., :head_size]


class _QuantizedTensor:
    """A tensor (B, H, S, D) in few bits that grows along S."""

    def __init__(self, nbits: int, group_size: int) -> None:
        self._nbits = nbits
        self._group_size = group_size
        self._parts = (GrowingTensor(), GrowingTensor(), GrowingTensor())  # codes, steps, lowest values

    @property
    def length(self) -> int:
        return self._parts[0].length

    def append(self, new: Tensor) -> None:
        for part, values in zip(
            self._parts, quantize(new.detach(), self._nbits, self._group_size), strict=True
        ):
            part.append(values)

    def read(self, like: Tensor) -> Tensor:
        """All that is held, with the dtype and head size of `like`."""
        codes, step, low = (part.held for part in self._parts)
        if codes is None or step is None or low is None:
            return like[:, :, :0]
        return dequantize(codes, step, low, self._nbits, like.shape[3]).to(like.dtype)

    def crop(self, length: int) -> None:
        for part in self._parts:
            part.crop(length)

    def select(self, rows: Tensor) -> None:
        for part in self._parts:
            part.select(rows)

    def clear(self) -> None:
        for part in self._parts:
            part.clear()

    def fork(self) -> "_QuantizedTensor":
        other = _QuantizedTensor(self._nbits, self._group_size)
        codes, step, low = self._parts
        other._parts = (codes.fork(), step.fork(), low.fork())
        return other


class QuantizedLayer(DynamicLayer):
    """Keys and values of one layer: at least the newest residual_length positions as they are, the rest in bits.

    Positions move in blocks: when there are twice residual_length as they are, the older half is quantised.
    What an update returns has its own new positions exact. Gradients do not flow into quantised positions.
    """

    def __init__(self, nbits: int = 4, q_group_size: int = 64, residual_length: int = 128) -> None:
        super().__init__()
        self.nbits = nbits
        self.q_group_size = q_group_size
        self.residual_length = residual_length
        self._old_keys = _QuantizedTensor(nbits, q_group_size)
        self._old_values = _QuantizedTensor(nbits, q_group_size)

    @property
    def keys(self) -> Tensor | None:
        """(B, H, S, D), made of what is stored; None before the first update."""
        recent = self._keys.held
        return None if recent is None else torch.cat((self._old_keys.read(recent), recent), dim=2)

    @property
    def values(self) -> Tensor | None:
        """As keys."""
        recent = self._values.held
        return None if recent is None else torch.cat((self._old_values.read(recent), recent), dim=2)

    def update(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, H, T, D); return all of them, (B, H, S, D)."""
        recent_keys, recent_values = self._keys.append(key_states), self._values.append(value_states)
        keys, values = recent_keys, recent_values
        if self._old_keys.length:
            keys = torch.cat((self._old_keys.read(keys), keys), dim=2)
            values = torch.cat((self._old_values.read(values), values), dim=2)
        if self._keys.length >= max(2 * self.residual_length, 1):
            num_old = self._keys.length - self.residual_length
            for tensor, old, recent in (
                (self._keys, self._old_keys, recent_keys),
                (self._values, self._old_values, recent_values),
            ):
                old.append(recent[:, :, :num_old])
                tensor.clear()
                tensor.append(recent[:, :, num_old:])
        return keys, values

    def get_seq_length(self) -> int:
        """Number of positions held."""
        return self._old_keys.length + self._keys.length

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._old_keys.clear()
        self._old_values.clear()

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last -tokens_to_remove positions; the number is negative, or 0 for none."""
        length = self.get_seq_length() + checked_crop(tokens_to_remove)
        num_old = self._old_keys.length
        for recent, old in ((self._keys, self._old_keys), (self._values, self._old_values)):
            recent.crop(length - num_old)
            old.crop(length)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Make row i what row beam_idx[i] was; beam_idx (B,) may repeat or drop rows."""
        super().reorder_cache(beam_idx)
        self._old_keys.select(beam_idx)
        self._old_values.select(beam_idx)

    def fork(self) -> "QuantizedLayer":
        """Return a layer that holds the same and grows on its own."""
        other = super().fork()
        assert isinstance(other, QuantizedLayer)
        other._old_keys, other._old_values = self._old_keys.fork(), self._old_values.fork()
        return other
