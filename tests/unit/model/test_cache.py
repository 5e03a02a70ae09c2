"""What holds for every kind of cache, and what each kind promises besides."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2kit import DynamicCache, EncoderDecoderCache, GPT2Config, QuantizedCache, StaticCache
from gpt2kit.model.cache.base import Cache, checked_cache
from gpt2kit.model.cache.caches import RaggedCache

B, H, D = 2, 3, 4
CONFIG = GPT2Config(n_layer=2, n_head=H, n_embd=H * D, vocab_size=9, n_positions=64)
KINDS = {
    "dynamic": lambda: DynamicCache(),
    "dynamic, layers made": lambda: DynamicCache(config=CONFIG),
    "offloaded": lambda: DynamicCache(offloading=True),
    "static": lambda: StaticCache(CONFIG, max_cache_len=16),
    "static, too short": lambda: StaticCache(CONFIG, max_cache_len=2),
    "static, offloaded": lambda: StaticCache(CONFIG, max_cache_len=16, offloading=True),
    # Groups of one or two whole numbers come back as they were.
    "quantized": lambda: QuantizedCache(config=CONFIG, residual_length=3, q_group_size=2),
    "quantized, 8 bits, at once": lambda: QuantizedCache(nbits=8, residual_length=0, q_group_size=1),
    "pair": lambda: EncoderDecoderCache(DynamicCache(), DynamicCache()),
}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())


def positions(start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys that tell their position, and values that tell its negative."""
    keys = torch.arange(start, end).float().view(1, 1, -1, 1).expand(B, H, -1, D)
    return keys, -keys


def filled(length: int, make=DynamicCache) -> Cache:
    cache = make()
    for layer_idx in range(2):
        cache.update(*positions(0, length), layer_idx)
    return cache


def held(cache: Cache, layer_idx: int = 0) -> list[int]:
    keys, values = cache[layer_idx]
    if keys is None:
        return []
    assert torch.equal(keys, -values)
    return keys[-1, 2, : cache.get_seq_length(layer_idx), 3].int().tolist()


@every_kind
def test_positions_are_appended_in_order(make) -> None:
    cache = make()
    for start, end in [(0, 3), (3, 4), (4, 11), (11, 12)]:
        for layer_idx in range(2):
            assert cache.get_mask_sizes(end - start, layer_idx) == (end, 0)
            keys, values = cache.update(*positions(start, end), layer_idx)
            assert keys.shape == values.shape == (B, H, end, D)
            assert keys[0, 0, :, 0].int().tolist() == list(range(end))
            assert torch.equal(keys, -values)
    assert cache.get_seq_length() == cache.get_seq_length(1) == 12
    assert cache.get_seq_length(7) == 0
    assert len(cache) == 2
    assert cache.batch_size == B
    assert cache.is_initialized
    assert cache.is_croppable
    assert cache.is_sliding == [False, False]


@every_kind
@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["append", "crop", "fork", "copy", "pickle"]), st.integers(0, 7))))
def test_any_history_leaves_the_positions_that_a_list_would_have(make, history) -> None:
    cache, expected, next_position = make(), [], 0
    others = []
    for action, number in history:
        if action == "append":
            for layer_idx in range(2):
                cache.update(*positions(next_position, next_position + number), layer_idx)
            expected = expected + list(range(next_position, next_position + number))
            next_position += number
        elif action == "crop":
            cache.crop(-number)
            expected = expected[: max(len(expected) - number, 0)]
        else:
            others.append((cache, expected))
            ways = {
                "fork": Cache.fork,
                "copy": copy.deepcopy,
                "pickle": lambda c: pickle.loads(pickle.dumps(c)),
            }
            cache = cache.fork() if action == "fork" else ways[action](cache)
    for one, positions_of_one in [*others, (cache, expected)]:
        assert held(one) == positions_of_one if len(one) else not positions_of_one
        assert one.get_seq_length() == len(positions_of_one)


@every_kind
def test_a_positive_crop_is_refused(make) -> None:
    cache = filled(3, make)
    with pytest.raises(ValueError, match="Calling `crop` with a positive value"):
        cache.crop(2)
    assert held(cache) == [0, 1, 2]


@every_kind
def test_rows_are_reordered_repeated_and_selected(make) -> None:
    cache = make()
    keys = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand(2, H, 9, D)
    cache.update(keys, keys, layer_idx=0)
    cache.update(keys, keys, layer_idx=1)
    for change, rows in [
        (lambda: cache.reorder_cache(torch.tensor([1, 1, 0])), [2, 2, 1]),
        (lambda: cache.batch_repeat_interleave(2), [2, 2, 2, 2, 1, 1]),
        (lambda: cache.batch_select_indices(torch.tensor([5, 0])), [1, 2]),
        (lambda: cache.batch_select_indices(torch.tensor([False, True])), [2]),
    ]:
        change()
        for layer_idx in range(2):
            assert cache[layer_idx][0][:, 0, 0, 0].tolist() == rows
            assert cache[layer_idx][1][:, 2, 8, 3].tolist() == rows
    grown, _ = cache.update(3 * keys[:1], keys[:1], layer_idx=0)
    assert grown[0, 0, :, 0].tolist() == [2.0] * 9 + [3.0] * 9


@every_kind
def test_reset_forgets_everything_and_the_cache_can_be_used_again(make) -> None:
    cache = filled(9, make)
    cache.reset()
    assert cache.get_seq_length() == 0
    assert len(cache) == 2
    cache.update(*positions(40, 42), layer_idx=0)
    assert held(cache) == [40, 41]


@every_kind
def test_another_shape_is_refused(make) -> None:
    cache = filled(3, make)
    other = torch.zeros(B + 1, H, 1, D)
    with pytest.raises(ValueError, match=r"the cache holds .*got \(3, 3, 1, 4\)"):
        cache.update(other, other, layer_idx=0)


@every_kind
def test_iteration_gives_keys_values_and_no_window(make) -> None:
    cache = filled(3, make)
    for layer_idx, (keys, values, window, *_) in enumerate(cache):
        assert torch.equal(keys, cache.layers[layer_idx].keys)
        assert torch.equal(values, cache.layers[layer_idx].values)
        assert window is None


@every_kind
def test_a_cache_of_inference_mode_grows_outside_of_it(make) -> None:
    with torch.inference_mode():
        cache = filled(3, make)
    with torch.no_grad():
        cache.update(*positions(3, 5), layer_idx=0)
    assert held(cache) == [0, 1, 2, 3, 4]


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
    cache.crop(-6)
    cache.update(*positions(50, 53), layer_idx=0)
    assert keys[0, 0, :, 0].int().tolist() == list(range(8))
    assert held(cache) == [0, 1, 50, 51, 52]


def test_gradients_flow_through_several_steps() -> None:
    cache, first = DynamicCache(), torch.ones(B, H, 2, D, requires_grad=True)
    keys, _ = cache.update(first, first, layer_idx=0)
    early = (keys**2).sum()
    keys, _ = cache.update(2 * first, first, layer_idx=0)
    (early + keys.sum()).backward()
    assert torch.equal(first.grad, torch.full_like(first, 5.0))


def test_a_dynamic_cache_can_be_made_of_tensors() -> None:
    keys, values = positions(0, 3)
    cache = DynamicCache([(keys, values), (None, None), (keys, values, None)])
    assert held(cache) == held(cache, 2) == [0, 1, 2]
    assert cache[1] == (None, None)
    assert cache.get_max_length() == -1
    assert not cache.is_compileable


def test_a_static_cache_takes_its_memory_once() -> None:
    cache = StaticCache(CONFIG, max_cache_len=10)
    cache.early_initialization(B, H, D, torch.float32, "cpu")
    storage = cache.layers[1].keys
    assert storage.shape == (B, H, 10, D)
    for i in range(10):
        keys, _ = cache.update(*positions(i, i + 1), layer_idx=1)
        assert keys.data_ptr() == storage.data_ptr()
    cache.reset()
    assert not storage.any()
    assert cache.update(*positions(3, 4), layer_idx=1)[0].data_ptr() == storage.data_ptr()
    assert cache.is_compileable
    assert cache.max_cache_len == cache.get_max_length() == 10


def test_a_static_cache_grows_when_a_text_is_longer_than_planned() -> None:
    cache = StaticCache(CONFIG, max_cache_len=4)
    for i in range(9):
        cache.update(*positions(i, i + 1), layer_idx=0)
    assert held(cache) == list(range(9))
    assert cache.get_max_length(0) >= 9
    assert cache.get_max_length(1) == 4


def test_early_initialization_needs_a_number_for_each_layer() -> None:
    with pytest.raises(ValueError, match="the cache has 2"):
        StaticCache(CONFIG, max_cache_len=4).early_initialization(1, [2, 2, 2], 4, torch.float32, "cpu")


def test_a_pair_of_caches_keeps_the_encoder() -> None:
    pair = EncoderDecoderCache(filled(3), filled(5))
    assert pair.is_updated == {0: True, 1: True}
    pair.crop(-1)
    assert pair.get_seq_length() == 2
    assert pair.cross_attention_cache.get_seq_length() == 5
    assert [keys.shape[2] for keys in next(iter(pair)) if keys is not None] == [2, 2, 5, 5]
    pair.reorder_cache(torch.tensor([1]))
    assert pair.cross_attention_cache.batch_size == pair.batch_size == 1
    pair.reset()
    assert pair.is_updated == {0: False, 1: False}
    again = EncoderDecoderCache([tuple(filled(3)[i]) + tuple(filled(5)[i]) for i in range(2)])
    assert again.cross_attention_cache.get_seq_length() == 5
    assert EncoderDecoderCache(DynamicCache(), DynamicCache()).is_updated == {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EncoderDecoderCache(), "0 arguments"),
        (lambda: EncoderDecoderCache([(1, 2)]), "4 or 6"),
        (lambda: StaticCache(CONFIG, max_cache_len=0), "max_cache_len is 0"),
        (lambda: QuantizedCache("fp8"), "Unknown quantization backend `fp8`"),
        (lambda: QuantizedCache(nbits=2), "nbits is 2"),
        (lambda: QuantizedCache(axis_key=-1), "axis_key is -1"),
        (lambda: QuantizedCache(q_group_size=0), "q_group_size is 0"),
        (lambda: QuantizedCache(residual_length=-1), "residual_length is -1"),
        (lambda: Cache(), "exactly one"),
        (lambda: checked_cache(((1, 2), (1, 2))), "Passing a tuple of `past_key_values`"),
        (lambda: checked_cache({}), "is a dict"),
    ],
)
def test_bad_arguments_are_refused_with_the_reason(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_pair_is_made_of_caches_only() -> None:
    with pytest.raises(TypeError, match="a cache is needed twice"):
        EncoderDecoderCache(DynamicCache(), ())


def test_unequal_rows_are_laid_end_to_end() -> None:
    ragged = RaggedCache([filled(3), DynamicCache()], [2, 4])
    assert ragged.spans == [(0, 2), (2, 6)]
    assert ragged.position_ids(torch.device("cpu")).tolist() == [[3, 4, 0, 1, 2, 3]]
    with pytest.raises(ValueError, match="position_ids"):
        ragged.get_seq_length()
