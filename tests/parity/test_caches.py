"""Our caches beside Transformers': the same histories give the same keys, lengths and logits."""

import copy
import random

import pytest
import torch
import transformers

import gpt2kit
from random_models import random_pair

KINDS = ["dynamic", "static", "given"]


@pytest.fixture(autouse=True)
def one_thread():
    """Threads cost more than they give where models are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def new_cache(package, kind: str, config):
    if kind == "static":
        return package.StaticCache(config, max_cache_len=40)
    return package.DynamicCache(config=config) if kind == "dynamic" else package.DynamicCache()


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return ours.shape == theirs.shape and bool(
        (ours - theirs).abs().max() <= 2e-5 * theirs.abs().max() + 1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_a_text_in_pieces_gives_the_same_logits_and_keys(kind, seed) -> None:
    rng = random.Random(seed)
    theirs, ours = random_pair(seed, n_positions=40, n_layer=2, n_head=2, n_embd=24)
    B = rng.randint(1, 3)
    caches = [new_cache(transformers, kind, theirs.config), new_cache(gpt2kit, kind, ours.config)]
    length = 0
    with torch.no_grad():
        for _ in range(4):
            ids = torch.randint(0, ours.config.vocab_size, (B, rng.randint(1, 9)))
            length += ids.shape[1]
            logits = [
                model(ids, past_key_values=cache, use_cache=True).logits
                for model, cache in zip((theirs, ours), caches, strict=True)
            ]
            assert close(logits[1], logits[0])
            assert caches[1].get_seq_length() == int(caches[0].get_seq_length()) == length
            for layer_idx in range(2):
                expected = caches[0].layers[layer_idx].keys[:, :, :length]
                assert close(caches[1].layers[layer_idx].keys[:, :, :length], expected)


def changes(rng: random.Random, B: int):
    """Random calls that both packages' dynamic caches understand, with the batch size after each."""
    calls = []
    for _ in range(5):
        name = rng.choice(["crop", "reorder_cache", "batch_repeat_interleave", "batch_select_indices"])
        if name == "crop":
            argument = -rng.randint(0, 2)
        elif name == "batch_repeat_interleave":
            argument = rng.randint(1, 2)
            B *= argument
        else:
            count = B if name == "reorder_cache" else rng.randint(1, B)
            argument = torch.tensor([rng.randrange(B) for _ in range(count)])
            B = count
        calls.append((name, argument))
    return calls, B


@pytest.mark.parametrize("seed", range(20))
def test_a_changed_cache_is_continued_the_same(seed) -> None:
    rng = random.Random(seed)
    theirs, ours = random_pair(seed, n_positions=40, n_layer=2, n_head=2, n_embd=16)
    B = rng.randint(1, 3)
    ids = torch.randint(0, ours.config.vocab_size, (B, 14))
    calls, B = changes(rng, B)
    more = torch.randint(0, ours.config.vocab_size, (B, 2))
    logits = []
    for model, cache in ((theirs, transformers.DynamicCache()), (ours, gpt2kit.DynamicCache())):
        with torch.no_grad():
            model(ids, past_key_values=cache, use_cache=True)
            for name, argument in calls:
                getattr(cache, name)(argument)
            cache = copy.deepcopy(cache)
            logits.append(model(more, past_key_values=cache, use_cache=True).logits)
    assert close(logits[1], logits[0])


@pytest.mark.parametrize("nbits", [8, 4])
def test_a_quantised_cache_is_near_an_exact_one(nbits) -> None:
    # Weights as of a model before training, so that attention spreads and errors are not blown up.
    _, ours = random_pair(7, n_positions=99, n_layer=2, n_head=2, n_embd=32, initializer_range=0.08)
    ids = torch.randint(0, ours.config.vocab_size, (1, 90))
    with torch.no_grad():
        exact = ours(ids).logits[0, 60:]
        cache = gpt2kit.QuantizedCache(config=ours.config, nbits=nbits, residual_length=8, q_group_size=16)
        ours(ids[:, :60], past_key_values=cache)
        near = torch.cat([ours(ids[:, i : i + 1], past_key_values=cache).logits[0] for i in range(60, 90)])
    error = (near - exact).abs().max() / exact.abs().max()
    # Steps are 1/255 and 1/15 of a group's range; attention averages the errors of many positions.
    assert 1e-6 < error < {8: 0.01, 4: 0.15}[nbits]
