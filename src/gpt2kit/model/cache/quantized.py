"""Keys and values in 8 or 4 bits: the newest positions as they are, older ones as integers.

Numbers are cut into groups; a group is stored as integers from 0 to 2**nbits - 1 between its smallest and largest
value. A value is off by at most half a step, which is (largest - smallest) / (2**nbits - 1) / 2, besides rounding
to the cache's dtype. Groups are laid as in Liu et al., "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV
Cache", 2024: for values, neighbouring channels of one position; for keys, whose channels differ in size,
neighbouring positions of one channel. A position is quantised once and never again, whatever comes after it.

B batch, H heads, T and S positions, D head size, G groups.
"""

import torch
from torch import Tensor

from gpt2kit.model.cache.layers import DynamicLayer, GrowingTensor, checked_crop


def group_shape(length: int, group_size: int, nbits: int) -> tuple[int, int]:
    """Number of groups in a row of numbers and numbers in each: equal, about group_size at most, whole bytes."""
    num_groups = -(-length // group_size)
    size = -(-length // num_groups)
    return num_groups, size + size % 2 if nbits == 4 else size


def quantize(x: Tensor, nbits: int, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return x (B, H, T, D) as codes uint8 (B, H, T, bytes), and step and lowest value float32 (B, H, T, G)."""
    B, H, T, D = x.shape
    num_groups, size = group_shape(D, group_size, nbits)
    # The last number repeated does not widen its group.
    padding = x[..., -1:].expand(B, H, T, num_groups * size - D)
    groups = torch.cat((x, padding), dim=-1).float().view(B, H, T, num_groups, size)
    low, high = groups.amin(dim=-1, keepdim=True), groups.amax(dim=-1, keepdim=True)
    largest = 2**nbits - 1
    step = (high - low) / largest
    codes = ((groups - low) / step.clamp_min(torch.finfo(torch.float32).tiny)).round().clamp(0, largest)
    codes = codes.to(torch.uint8).flatten(-2)
    if nbits == 4:
        codes = codes[..., 0::2] | codes[..., 1::2] << 4
    return codes, step.squeeze(-1), low.squeeze(-1)


def dequantize(codes: Tensor, step: Tensor, low: Tensor, nbits: int, length: int) -> Tensor:
    """Undo quantize, to float32 (B, H, T, length)."""
    if nbits == 4:
        codes = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(-2)
    num_groups = step.shape[-1]
    groups = codes.view(*step.shape, codes.shape[-1] // num_groups) * step[..., None] + low[..., None]
    return groups.flatten(-2)[..., :length]


class _QuantizedTensor:
    """A tensor (B, H, S, D) in few bits that grows along S, by blocks of positions."""

    def __init__(self, nbits: int, group_size: int, block: int) -> None:
        """block: positions whose channels are grouped, or 1 to group the channels of each position."""
        self._nbits = nbits
        self._group_size = group_size
        self._block = block
        self._parts = (GrowingTensor(), GrowingTensor(), GrowingTensor())  # codes, steps, lowest values

    @property
    def length(self) -> int:
        return self._parts[0].length * self._block

    def append(self, new: Tensor) -> None:
        """Take a whole number of blocks (B, H, T, D)."""
        B, H, T, D = new.shape
        blocks = new.detach().reshape(B, H, T // self._block, self._block, D).transpose(3, 4).flatten(3)
        quantized = quantize(blocks, self._nbits, self._group_size)
        for part, values in zip(self._parts, quantized, strict=True):
            part.append(values)

    def read(self, like: Tensor) -> Tensor:
        """All that is held, (B, H, S, D), with the dtype and head size of `like`."""
        codes, step, low = (part.held for part in self._parts)
        if codes is None or step is None or low is None:
            return like[:, :, :0]
        B, H, S, D = *like.shape[:2], self.length, like.shape[3]
        blocks = dequantize(codes, step, low, self._nbits, D * self._block).to(like.dtype)
        return blocks.view(B, H, S // self._block, D, self._block).transpose(3, 4).reshape(B, H, S, D)

    def crop(self, length: int) -> None:
        """Forget all blocks that reach beyond `length` positions."""
        for part in self._parts:
            part.crop(length // self._block)

    def select(self, rows: Tensor) -> None:
        for part in self._parts:
            part.select(rows)

    def clear(self) -> None:
        for part in self._parts:
            part.clear()

    def fork(self) -> "_QuantizedTensor":
        other = _QuantizedTensor(self._nbits, self._group_size, self._block)
        codes, step, low = self._parts
        other._parts = (codes.fork(), step.fork(), low.fork())
        return other


class QuantizedLayer(DynamicLayer):
    """Keys and values of one layer: at least the newest residual_length positions as they are, the rest in bits.

    Positions move in blocks of q_group_size as soon as one is full, so fewer than residual_length + q_group_size
    are as they are. What an update returns has its own new positions exact. Gradients do not flow into
    quantised positions.
    """

    def __init__(self, nbits: int = 4, q_group_size: int = 64, residual_length: int = 128) -> None:
        super().__init__()
        self.nbits = nbits
        self.q_group_size = q_group_size
        self.residual_length = residual_length
        self._old_keys = _QuantizedTensor(nbits, q_group_size, block=q_group_size)
        self._old_values = _QuantizedTensor(nbits, q_group_size, block=1)

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
        num_old = (self._keys.length - self.residual_length) // self.q_group_size * self.q_group_size
        if num_old > 0:
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
        length = max(self.get_seq_length() + checked_crop(tokens_to_remove), 0)
        num_old = self._old_keys.length
        num_kept = length // self.q_group_size * self.q_group_size
        if length < num_old:
            # What is left of a block that was cut goes back to the positions that are kept as they are.
            for recent, old in ((self._keys, self._old_keys), (self._values, self._old_values)):
                assert recent.held is not None
                rest = old.read(recent.held)[:, :, num_kept:length]
                recent.clear()
                recent.append(rest)
                old.crop(num_kept)
        else:
            self._keys.crop(length - num_old)
            self._values.crop(length - num_old)

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
