"""The keys and values of one attention layer, kept as they are; cache_quantized.py keeps them in few bits.

B batch, H heads, S positions held, T new positions, D head size.
"""

from typing import Any

import torch
from torch import Tensor


class GrowingTensor:
    """A tensor (B, H, S, D) that grows along S.

    Storage doubles when it is full, so appending one position costs O(1) amortised instead of a copy of all
    before it. While autograd records, positions are concatenated instead, because an earlier step's backward
    needs them unchanged.
    """

    def __init__(self, min_capacity: int = 0, device: str | None = None) -> None:
        """min_capacity: positions to make room for at once. device: where to keep them, else as they come."""
        self._min_capacity = min_capacity
        self._device = device
        self._storage: Tensor | None = None
        # Positions that may be written to; 0 when the storage is autograd's or shared with a fork.
        self._capacity = 0
        self.length = 0

    @property
    def storage(self) -> Tensor | None:
        """What is held and the room behind it, None before the first append."""
        return self._storage

    @property
    def held(self) -> Tensor | None:
        """A view of the positions held, good until the next append; None before the first one."""
        return None if self._storage is None else self._storage[:, :, : self.length]

    def append(self, new: Tensor) -> Tensor:
        """Add positions (B, H, T, D) at the end and return all that are held."""
        if self._device is not None:
            new = new.to(self._device)
        storage = (
            self._storage if self._storage is not None else new.new_zeros(*new.shape[:2], 0, new.shape[3])
        )
        if storage.shape[:2] != new.shape[:2] or storage.shape[3] != new.shape[3]:
            raise ValueError(
                f"the cache holds (B, H, S, D) of {tuple(storage.shape[:2])} and {storage.shape[3]}; "
                f"got {tuple(new.shape)}"
            )
        start, end = self.length, self.length + new.shape[2]
        if torch.is_grad_enabled() and (new.requires_grad or storage.requires_grad):
            storage = torch.cat((storage[:, :, :start], new), dim=2)
            self._capacity = 0
        else:
            # Outside of inference mode nobody may write to what was made in it.
            is_locked = storage.is_inference() and not torch.is_inference_mode_enabled()
            if end > self._capacity or self._storage is None or is_locked:
                self._capacity = max(end, 2 * start, self._min_capacity)
                grown = new.new_zeros(*new.shape[:2], self._capacity, new.shape[3])
                grown[:, :, :start] = storage[:, :, :start]
                storage = grown
            storage[:, :, start:end] = new
        self._storage, self.length = storage, end
        return storage[:, :, :end]

    def crop(self, length: int) -> None:
        """Forget all positions from `length` on."""
        self.length = min(self.length, max(length, 0))

    def select(self, rows: Tensor) -> None:
        """Make row i of the batch what row rows[i] was; rows may repeat or be left out."""
        if self._storage is not None:
            self._storage = self._storage.index_select(0, rows.to(self._storage.device))
            self._capacity = self._storage.shape[2]

    def clear(self) -> None:
        """Forget all positions and give the memory back."""
        self._storage, self._capacity, self.length = None, 0, 0

    def zero(self) -> None:
        """Forget all positions and keep the memory."""
        if self._storage is not None:
            self._storage = self._storage.detach()
            self._storage.zero_()
        self.length = 0

    def fork(self) -> "GrowingTensor":
        """Return one that holds the same and grows on its own; nothing is copied before either is written."""
        other = GrowingTensor(self._min_capacity, self._device)
        other._storage, other.length = self._storage, self.length
        self._capacity = 0
        return other

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self._storage is not None:
            # The room behind what is held is not worth copying.
            state["_storage"] = self._storage[:, :, : max(self.length, self._min_capacity)].detach().clone()
            state["_capacity"] = state["_storage"].shape[2]
        return state


class DynamicLayer:
    """Keys and values of one layer, growing as they come."""

    is_compileable = False
    is_croppable = True
    is_sliding = False

    def __init__(self, offloading: bool = False, min_capacity: int = 0) -> None:
        """offloading: keep them in the processor's memory, and copy them to the new keys' device for use."""
        device = "cpu" if offloading else None
        self._keys = GrowingTensor(min_capacity, device)
        self._values = GrowingTensor(min_capacity, device)

    def __repr__(self) -> str:
        return type(self).__name__

    @property
    def keys(self) -> Tensor | None:
        """(B, H, S, D), a view that holds until the next update; None before the first."""
        return self._keys.held

    @property
    def values(self) -> Tensor | None:
        """As keys."""
        return self._values.held

    @property
    def is_initialized(self) -> bool:
        """True when the shapes are known."""
        return self._keys.storage is not None

    @property
    def batch_size(self) -> int:
        """B, or -1 before the shapes are known."""
        return -1 if self._keys.storage is None else self._keys.storage.shape[0]

    def update(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, H, T, D); return all of them, (B, H, S, D)."""
        device = key_states.device
        keys, values = self._keys.append(key_states), self._values.append(value_states)
        return keys.to(device), values.to(device)

    def get_seq_length(self) -> int:
        """Number of positions held."""
        return self._keys.length

    def get_max_length(self) -> int:
        """Number of positions there is room for, -1 when there is no limit."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what the next update with query_length positions returns."""
        return self.get_seq_length() + query_length, 0

    def reset(self) -> None:
        """Forget everything."""
        self._keys.clear()
        self._values.clear()

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last -tokens_to_remove positions; the number is negative, or 0 for none."""
        length = self.get_seq_length() + checked_crop(tokens_to_remove)
        self._keys.crop(length)
        self._values.crop(length)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Make row i what row beam_idx[i] was; beam_idx (B,) may repeat or drop rows."""
        self._keys.select(beam_idx)
        self._values.select(beam_idx)

    def fork(self) -> "DynamicLayer":
        """Return a layer that holds the same and grows on its own."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._keys, other._values = self._keys.fork(), self._values.fork()
        return other


class StaticLayer(DynamicLayer):
    """Keys and values of one layer in memory taken once, for max_cache_len positions.

    Only what is filled goes into attention. More positions than planned take a larger memory, once.
    """

    is_compileable = True

    def __init__(self, max_cache_len: int, offloading: bool = False) -> None:
        if not isinstance(max_cache_len, int) or max_cache_len < 1:
            raise ValueError(f"max_cache_len is {max_cache_len!r}; it must be a whole number from 1")
        super().__init__(offloading, min_capacity=max_cache_len)
        self._planned_len = max_cache_len

    @property
    def max_cache_len(self) -> int:
        """Number of positions that there is room for now."""
        storage = self._keys.storage
        return self._planned_len if storage is None else storage.shape[2]

    @property
    def keys(self) -> Tensor | None:
        """(B, H, max_cache_len, D), the first get_seq_length() positions filled; None before the first update."""
        return self._keys.storage

    @property
    def values(self) -> Tensor | None:
        """As keys."""
        return self._values.storage

    def get_max_length(self) -> int:
        """Number of positions there is room for."""
        return self.max_cache_len

    def reset(self) -> None:
        """Fill everything with zeros and keep the memory."""
        self._keys.zero()
        self._values.zero()


def checked_crop(tokens_to_remove: int) -> int:
    """Return the number, negative or 0; raises ValueError for a positive one."""
    if tokens_to_remove > 0:
        raise ValueError(
            f"Calling `crop` with a positive value (`{tokens_to_remove}`) is not supported; give the number of "
            "tokens to remove as a negative integer: -1 forgets the last one"
        )
    return tokens_to_remove
