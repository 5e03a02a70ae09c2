import pytest
import torch
import transformers

from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError
from gpt2kit.model import GPT2ForSequenceClassification, GPT2LMHeadModel, GPT2Model

SETTINGS = {"vocab_size": 60, "n_positions": 16, "n_embd": 12, "n_layer": 2, "n_head": 3}
SETTINGS |= {"bos_token_id": 0, "eos_token_id": 0}


def with_oracle(is_tied: bool) -> tuple[GPT2LMHeadModel, transformers.GPT2LMHeadModel]:
    torch.manual_seed(0)
    settings = SETTINGS | {"tie_word_embeddings": is_tied}
    ours = GPT2LMHeadModel(GPT2Config(**settings)).eval()
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings)).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"new_num_tokens": 70}, 70),
        ({"new_num_tokens": 41}, 41),
        ({"new_num_tokens": 60}, 60),
        ({"new_num_tokens": 65, "pad_to_multiple_of": 8}, 72),
        ({"new_num_tokens": 64, "pad_to_multiple_of": 8}, 64),
        ({"pad_to_multiple_of": 64}, 64),
        ({}, 60),
    ],
)
def test_sizes_and_kept_rows_are_the_oracles(is_tied: bool, options: dict, expected: int) -> None:
    ours, theirs = with_oracle(is_tied)
    returned = ours.resize_token_embeddings(**options)
    theirs.resize_token_embeddings(**options)
    assert returned is ours.get_input_embeddings() is ours.transformer.wte
    kept = min(expected, 60)
    for model in (ours, theirs):
        assert model.config.vocab_size == expected
        assert model.get_input_embeddings().num_embeddings == expected
        assert model.lm_head.out_features == expected
        assert model.lm_head.weight.shape == (expected, 12)
        assert (model.lm_head.weight is model.transformer.wte.weight) is is_tied
    assert torch.equal(ours.lm_head.weight[:kept], theirs.lm_head.weight[:kept])
    assert torch.equal(ours.transformer.wte.weight[:kept], theirs.transformer.wte.weight[:kept])
    ids = torch.arange(10)[None]
    logits = ours(ids).logits
    assert logits.shape == (1, 10, expected)
    torch.testing.assert_close(logits[..., :kept], theirs(ids).logits[..., :kept], rtol=1e-4, atol=1e-5)
    assert ours.num_parameters() == theirs.num_parameters()


@pytest.mark.parametrize("is_tied", [True, False])
def test_new_rows_are_around_the_mean_as_the_oracles(is_tied: bool) -> None:
    ours, theirs = with_oracle(is_tied)
    for model in (ours, theirs):
        model.resize_token_embeddings(5060)
    for mine, other in (
        (ours.transformer.wte.weight, theirs.transformer.wte.weight),
        (ours.lm_head.weight, theirs.lm_head.weight),
    ):
        mean = mine[:60].mean(dim=0)
        torch.testing.assert_close(mine[60:].mean(dim=0), mean, rtol=0, atol=1e-7)
        torch.testing.assert_close(other[60:].mean(dim=0), mean, rtol=0, atol=1e-7)
        # The spread is a small part of the old rows', and the same as the oracle's.
        assert (mine[60:] - mean).std().item() == pytest.approx((other[60:] - mean).std().item(), rel=0.1)
        assert 0 < (mine[60:] - mean).std() < 1e-4 * mine[:60].std()


def test_new_rows_are_around_the_mean_of_fewer_rows_than_channels() -> None:
    model = GPT2Model(GPT2Config(**SETTINGS | {"vocab_size": 3}))
    mean = model.wte.weight.detach().mean(dim=0)
    model.resize_token_embeddings(9)
    torch.testing.assert_close(model.wte.weight[3:], mean.expand(6, -1), rtol=0, atol=1e-5)


def test_new_rows_are_drawn_as_first_weights_without_mean_resizing(model) -> None:
    model.config.initializer_range = 0.5
    model.resize_token_embeddings(2060, mean_resizing=False)
    assert model.transformer.wte.weight[60:].std().item() == pytest.approx(0.5, rel=0.05)
    assert abs(model.transformer.wte.weight[60:].mean().item()) < 0.02


@pytest.mark.parametrize("is_tied", [True, False])
def test_todays_size_keeps_the_very_weights(is_tied: bool) -> None:
    model, _ = with_oracle(is_tied)
    before = list(model.parameters())
    model.resize_token_embeddings(60)
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))


def test_a_head_that_shares_its_weights_by_hand_goes_on_sharing() -> None:
    model, _ = with_oracle(is_tied=False)
    model.lm_head.weight = model.transformer.wte.weight
    model.resize_token_embeddings(70)
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtype_and_frozen_weights_stay(model, dtype: torch.dtype) -> None:
    model.to(dtype).requires_grad_(False)
    model.resize_token_embeddings(70)
    assert model.lm_head.weight.dtype == dtype and not model.lm_head.weight.requires_grad
    assert model.lm_head.weight.isfinite().all()


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_resized_model_is_written_and_read(tmp_path, is_tied: bool) -> None:
    model, _ = with_oracle(is_tied)
    model.resize_token_embeddings(67)
    model.save_pretrained(tmp_path / "m")
    for cls in (GPT2LMHeadModel, transformers.GPT2LMHeadModel):
        back = cls.from_pretrained(tmp_path / "m")
        assert torch.equal(back.lm_head.weight, model.lm_head.weight)
        assert torch.equal(back.transformer.wte.weight, model.transformer.wte.weight)


@pytest.mark.parametrize(
    "options",
    [
        {"new_num_tokens": 0},
        {"new_num_tokens": -3},
        {"new_num_tokens": 2**40},
        {"new_num_tokens": 70.5},
        {"pad_to_multiple_of": 0},
        {"pad_to_multiple_of": 8.0},
    ],
)
def test_sizes_that_cannot_be_are_refused_and_change_nothing(model, options: dict) -> None:
    with pytest.raises(ConfigError, match="allowed: an integer from 1"):
        model.resize_token_embeddings(**options)
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == 60


def test_heads_without_a_row_a_token_are_left_alone(config) -> None:
    model = GPT2ForSequenceClassification(config)
    before = model.score.weight.clone()
    model.resize_token_embeddings(66)
    assert model.get_output_embeddings() is None
    assert model.transformer.wte.num_embeddings == 66
    assert torch.equal(model.score.weight, before)
    with pytest.raises(ConfigError, match="has no output embeddings"):
        model.set_output_embeddings(torch.nn.Linear(12, 66, bias=False))


def test_the_head_is_replaced(config) -> None:
    config.tie_word_embeddings = False
    model = GPT2LMHeadModel(config)
    head = torch.nn.Linear(12, 60, bias=False)
    model.set_output_embeddings(head)
    assert model.get_output_embeddings() is model.lm_head is head
    for wrong in (torch.nn.Linear(12, 60), torch.nn.Linear(13, 60, bias=False)):
        with pytest.raises(ConfigError, match="in_features=12 and bias=False"):
            model.set_output_embeddings(wrong)


@pytest.mark.parametrize("is_tied", [True, False])
def test_counts_are_the_oracles(is_tied: bool) -> None:
    ours, theirs = with_oracle(is_tied)
    for model in (ours, theirs):
        model.transformer.h[0].requires_grad_(False)
    for options in ({}, {"only_trainable": True}, {"exclude_embeddings": True}):
        assert ours.num_parameters(**options) == theirs.num_parameters(**options)
    assert ours.get_memory_footprint() == theirs.get_memory_footprint() == 4 * ours.num_parameters()
    assert ours.bfloat16().get_memory_footprint(return_buffers=False) == 2 * ours.num_parameters()
