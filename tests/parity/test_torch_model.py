"""Options of GPT2LMHeadModel beside the sweep's (test_network_sweep.py), first weights and folders.

Tolerance: 2e-5 of the largest value, which is what float32 sums in another order differ by at these sizes.
"""

import random

import pytest
import torch
import transformers

from gpt2kit.config import GPT2Config
from gpt2kit.model import GPT2LMHeadModel, GPT2Model
from gpt2kit.model.activations import ACTIVATIONS

TOLERANCE = 2e-5


def random_settings(seed: int) -> dict:
    """One random small GPT-2; seeds from 0 go through every activation."""
    r = random.Random(seed)
    n_head = r.choice([1, 2, 3, 5])
    end = r.randrange(1, 50)
    return {
        "vocab_size": r.randrange(50, 300),
        "n_positions": r.randrange(24, 70),
        "n_embd": n_head * r.choice([4, 6, 16]),
        "n_layer": r.randrange(1, 5),
        "n_head": n_head,
        "n_inner": r.choice([None, None, 17, 96]),
        "activation_function": sorted(ACTIVATIONS)[seed] if seed < len(ACTIVATIONS) else "gelu_new",
        "layer_norm_epsilon": r.choice([1e-5, 1e-3, 1e-12]),
        "initializer_range": r.choice([0.02, 0.1, 0.3]),
        "scale_attn_weights": r.random() < 0.7,
        "scale_attn_by_inverse_layer_idx": r.random() < 0.3,
        "reorder_and_upcast_attn": r.random() < 0.3,
        "tie_word_embeddings": r.random() < 0.7,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "bos_token_id": end,
        "eos_token_id": end,
    }


def both(seed: int) -> tuple[GPT2LMHeadModel, transformers.GPT2LMHeadModel]:
    """Our model and the oracle's with the same weights, biases and norms random too."""
    torch.manual_seed(seed)
    settings = random_settings(seed)
    ours = GPT2LMHeadModel(GPT2Config(**settings)).eval()
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if name.endswith(".bias") or ".ln_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    # The oracle ignores reorder_and_upcast_attn with its fused backend.
    config = transformers.GPT2Config(**settings, attn_implementation="eager")
    theirs = transformers.GPT2LMHeadModel(config).eval()
    result = theirs.load_state_dict(ours.state_dict(), strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    if random.Random(-seed).random() < 0.5:
        ours.set_attn_implementation("eager")
    return ours, theirs


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape
    scale = theirs.abs().max().clamp(min=1e-30)
    error = ((ours - theirs).abs().max() / scale).item()
    assert error <= tolerance, f"differs by {error:.1e} of the largest value; {tolerance:.0e} allowed"


def random_ids(model: GPT2LMHeadModel, B: int, T: int) -> torch.Tensor:
    return torch.randint(0, model.config.vocab_size, (B, T))


def test_other_losses_equal_the_oracles() -> None:
    ours, theirs = both(102)
    ids = random_ids(ours, 2, 10)
    for extra in (
        {"labels": ids, "num_items_in_batch": 7},
        {"labels": ids, "shift_labels": ids.roll(-1, 1)},
        {"labels": ids, "return_dict": False},
    ):
        assert_close(ours(ids, **extra)[0], theirs(ids, **extra)[0])


def test_leading_dimensions_are_restored_as_in_the_oracle() -> None:
    ours, theirs = both(103)
    ids = torch.randint(0, ours.config.vocab_size, (2, 3, 7))
    assert_close(ours(ids).logits, theirs(ids).logits)


@pytest.mark.parametrize("kept", [1, 3, torch.tensor([0, 4, 5])])
def test_logits_to_keep_equals_the_oracles(kept) -> None:
    ours, theirs = both(104)
    ids = random_ids(ours, 2, 8)
    assert_close(ours(ids, logits_to_keep=kept).logits, theirs(ids, logits_to_keep=kept).logits)


@pytest.mark.parametrize(
    "name", ["wte.weight", "h.1.attn.c_attn.weight", "h.0.mlp.c_proj.weight", "ln_f.weight"]
)
def test_first_weights_are_drawn_as_the_oracle_draws_them(name: str) -> None:
    settings = {"vocab_size": 400, "n_positions": 64, "n_embd": 64, "n_layer": 3, "n_head": 4}
    settings |= {"bos_token_id": 1, "eos_token_id": 1, "initializer_range": 0.05}
    ours = GPT2Model(GPT2Config(**settings)).state_dict()[name]
    theirs = transformers.GPT2Model(transformers.GPT2Config(**settings)).state_dict()[name]
    assert ours.mean().item() == pytest.approx(theirs.mean().item(), abs=0.005)
    assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.05)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("is_tied", [True, False])
def test_folders_go_both_ways(tmp_path, dtype: str, is_tied: bool) -> None:
    settings = random_settings(3) | {"tie_word_embeddings": is_tied}
    ours = GPT2LMHeadModel.from_config(GPT2Config(**settings), dtype=dtype).eval()
    ours.save_pretrained(tmp_path / "ours")
    theirs, info = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert theirs.config.architectures == ["GPT2LMHeadModel"]
    theirs.save_pretrained(tmp_path / "theirs")
    back, info = GPT2LMHeadModel.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not any(info.values())
    assert back.dtype == ours.dtype and not back.training
    assert (back.lm_head.weight is back.transformer.wte.weight) is is_tied
    expected = dict(ours.named_parameters())
    for name, parameter in back.named_parameters():
        assert torch.equal(parameter, expected[name]), name
        assert torch.equal(parameter, theirs.state_dict()[name]), name
