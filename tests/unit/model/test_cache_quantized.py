import pytest
import torch

from gpt2kit import QuantizedCache
from gpt2kit.model.cache.quantized import dequantize, quantize


@pytest.mark.parametrize("nbits", [4, 8])
@pytest.mark.parametrize(("head_size", "group_size"), [(64, 64), (64, 16), (64, 20), (5, 64), (7, 3), (1, 1)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_a_value_is_off_by_at_most_half_a_step_of_its_group(nbits, head_size, group_size, scale) -> None:
    generator = torch.Generator().manual_seed(head_size)
    x = scale * torch.randn(2, 3, 5, head_size, generator=generator)
    x[0, 0, 0] *= 100  # a far larger position harms no other one
    codes, step, low = quantize(x, nbits, group_size)
    assert codes.dtype == torch.uint8
    error = (dequantize(codes, step, low, nbits, head_size) - x).abs()
    num_groups = step.shape[3]
    channels = codes.shape[3] * (8 // nbits) // num_groups
    per_channel = step.repeat_interleave(channels, dim=3)[..., :head_size]
    assert (error <= 0.5 * per_channel + 1e-5 * x.abs().amax(dim=3, keepdim=True)).all()
    widest = x.amax(dim=3) - x.amin(dim=3)
    assert (step <= widest[..., None] / (2**nbits - 1) * 1.0001).all()


@pytest.mark.parametrize(("nbits", "ratio"), [(8, 0.29), (4, 0.17)])
def test_old_positions_take_a_fraction_of_the_memory(nbits, ratio) -> None:
    x = torch.randn(1, 2, 1000, 64)
    parts = quantize(x, nbits, 64)
    assert sum(part.nbytes for part in parts) <= ratio * x.nbytes


def test_the_newest_positions_are_exact_and_each_is_quantised_once() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 60, 8)
    cache = QuantizedCache(nbits=4, residual_length=5, q_group_size=4)
    seen: list[torch.Tensor] = []
    for i in range(60):
        keys, _ = cache.update(x[:, :, i : i + 1], -x[:, :, i : i + 1], layer_idx=0)
        assert torch.equal(keys[:, :, -5:], x[:, :, max(0, i - 4) : i + 1])
        changed = [t for t in range(len(seen)) if not torch.equal(keys[0, :, t], seen[t])]
        # Only positions that had been exact may change, to their rounded value.
        assert all(torch.equal(seen[t], x[0, :, t]) for t in changed)
        seen = [keys[0, :, t] for t in range(i + 1)]
    is_exact = [torch.equal(seen[t], x[0, :, t]) for t in range(60)]
    assert 5 <= is_exact.count(True) <= 9
    assert not any(is_exact[:51])


def test_a_channel_that_is_larger_than_others_does_not_harm_their_keys() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 1, 64, 8)
    x[..., 0] *= 1000
    cache = QuantizedCache(nbits=4, residual_length=0)
    cache.update(x, x, layer_idx=0)
    keys, values = cache[0]
    assert (keys - x)[..., 1:].abs().max() < 0.25
    assert (values - x)[..., 1:].abs().max() > 1


def test_what_is_left_of_a_cut_block_stays_as_it_was_read() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 32, 8)
    cache = QuantizedCache(nbits=8, residual_length=0, q_group_size=8)
    cache.update(x, x, layer_idx=0)
    before = cache[0][0]
    cache.crop(-5)
    assert cache.get_seq_length() == 27
    assert torch.equal(cache[0][0], before[:, :, :27])
    cache.update(x[:, :, 27:], x[:, :, 27:], layer_idx=0)
    assert (cache[0][0] - x).abs().max() < 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_comes_back_as_it_was_given(dtype) -> None:
    x = torch.randn(1, 2, 40, 8).to(dtype)
    cache = QuantizedCache(nbits=8, residual_length=4, q_group_size=16)
    cache.update(x, x, layer_idx=0)
    keys, _ = cache.update(x[:, :, :1], x[:, :, :1], layer_idx=0)
    assert keys.dtype == dtype
    assert (keys[:, :, :40] - x).abs().max() < 0.03
