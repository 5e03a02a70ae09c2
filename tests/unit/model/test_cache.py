import pytest
import torch

from gpt2kit.model import DynamicCache
from gpt2kit.model.cache import RaggedCache

B, H, D = 2, 3, 4


def positions(start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys that tell their position, and values that tell its negative."""
    keys = torch.arange(start, end).float().view(1, 1, -1, 1).expand(B, H, -1, D)
    return keys, -keys


def filled(length: int) -> DynamicCache:
    cache = DynamicCache()
    cache.update(*positions(0, length), layer_idx=0)
    return cache


def held(cache: DynamicCache) -> list[int]:
    keys, values = cache[0]
    assert torch.equal(keys, -values)
    return keys[1, 2, :, 3].int().tolist()


def test_positions_are_appended_in_order() -> None:
    cache = DynamicCache()
    for start, end in [(0, 3), (3, 4), (4, 11), (11, 12)]:
        keys, _ = cache.update(*positions(start, end), layer_idx=0)
        assert keys[0, 0, :, 0].int().tolist() == list(range(end))
    assert cache.get_seq_length() == 12
    assert len(cache) == 1


def test_appending_copies_each_position_a_bounded_number_of_times() -> None:
    cache = DynamicCache()
    storages = set()
    for i in range(1000):
        keys, _ = cache.update(*positions(i, i + 1), layer_idx=0)
        storages.add(keys.data_ptr())
    assert len(storages) <= 12  # 1000 is below 2 ** 10


def test_the_callers_tensors_are_never_written_to() -> None:
    keys, values = (t.clone() for t in positions(0, 8))
    cache = DynamicCache()
    cache.update(keys, values, layer_idx=0)
    cache.truncate(2)
    cache.update(*positions(50, 53), layer_idx=0)
    assert keys[0, 0, :, 0].int().tolist() == list(range(8))
    assert held(cache) == [0, 1, 50, 51, 52]


def test_truncate_forgets_the_end() -> None:
    cache = filled(5)
    cache.truncate(9)
    assert held(cache) == [0, 1, 2, 3, 4]
    cache.truncate(2)
    assert held(cache) == [0, 1]


def test_a_clone_grows_on_its_own() -> None:
    cache = filled(4)
    cache.update(*positions(4, 5), layer_idx=0)
    copy = cache.clone()
    cache.update(*positions(5, 6), layer_idx=0)
    copy.update(*positions(70, 72), layer_idx=0)
    assert held(cache) == [0, 1, 2, 3, 4, 5]
    assert held(copy) == [0, 1, 2, 3, 4, 70, 71]


def test_rows_are_reordered() -> None:
    cache = DynamicCache()
    keys = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand(2, H, 3, D)
    cache.update(keys, keys, layer_idx=0)
    cache.reorder_cache(torch.tensor([1, 1, 0]))
    assert cache[0][0][:, 0, 0, 0].tolist() == [2, 2, 1]


def test_reset_forgets_everything() -> None:
    cache = filled(4)
    cache.reset()
    assert cache.get_seq_length() == len(cache) == 0


def test_gradients_flow_through_several_steps() -> None:
    cache, first = DynamicCache(), torch.ones(B, H, 2, D, requires_grad=True)
    keys, _ = cache.update(first, first, layer_idx=0)
    early = (keys**2).sum()
    keys, _ = cache.update(2 * first, first, layer_idx=0)
    (early + keys.sum()).backward()
    assert torch.equal(first.grad, torch.full_like(first, 5.0))


def test_unequal_rows_are_laid_end_to_end() -> None:
    ragged = RaggedCache([filled(3), filled(0)], [2, 4])
    assert ragged.spans == [(0, 2), (2, 6)]
    assert ragged.position_ids(torch.device("cpu")).tolist() == [[3, 4, 0, 1, 2, 3]]
    with pytest.raises(ValueError, match="position_ids"):
        ragged.get_seq_length()
