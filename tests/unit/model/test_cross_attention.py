import pytest
import torch
import transformers

from gpt2kit.config import GPT2Config
from gpt2kit.engine.native import unsupported_reason
from gpt2kit.model import EncoderDecoderCache, GPT2LMHeadModel

SETTINGS = {"vocab_size": 60, "n_positions": 16, "n_embd": 24, "n_layer": 2, "n_head": 3}
SETTINGS |= {"bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.3, "add_cross_attention": True}
IDS = torch.arange(10).view(2, 5)


@pytest.fixture
def model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(**SETTINGS)).eval()


@pytest.fixture
def states() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 4, 24)


def test_the_encoders_keys_are_computed_once(model, states) -> None:
    calls = []
    for block in model.transformer.h:
        block.crossattention.c_attn.register_forward_hook(lambda *args: calls.append(1))
    with torch.no_grad():
        whole = model(IDS, encoder_hidden_states=states, use_cache=False).logits
        assert len(calls) == 2
        output = model(IDS[:, :3], encoder_hidden_states=states)
        cache = output.past_key_values
        assert isinstance(cache, EncoderDecoderCache) and cache.is_updated == {0: True, 1: True}
        steps = [output.logits]
        for t in range(3, 5):
            steps.append(model(IDS[:, t : t + 1], encoder_hidden_states=states, past_key_values=cache).logits)
    assert len(calls) == 4
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=1e-4, atol=1e-5)
    assert cache.get_seq_length() == 5 and cache.cross_attention_cache.get_seq_length() == 4


def test_without_states_it_is_a_plain_language_model(model) -> None:
    plain = GPT2LMHeadModel(GPT2Config(**SETTINGS | {"add_cross_attention": False})).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(model(IDS).logits, plain(IDS).logits)


def test_hidden_states_of_the_encoder_do_not_count(model, states) -> None:
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    full = mask[:, None, None, :].bool().expand(2, 1, 5, 4)
    other = states.clone()
    other[0, 2:] = 9.0
    expected = model(IDS, encoder_hidden_states=states, encoder_attention_mask=mask).logits
    for given in (mask, full):
        got = model(IDS, encoder_hidden_states=other, encoder_attention_mask=given).logits
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_folders_go_both_ways(tmp_path, model, states) -> None:
    model.save_pretrained(tmp_path / "ours")
    theirs, info = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    theirs.save_pretrained(tmp_path / "theirs")
    back, info = GPT2LMHeadModel.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not any(info.values())
    got = back(IDS, encoder_hidden_states=states).logits
    assert torch.equal(got, model(IDS, encoder_hidden_states=states).logits)


def test_the_native_engine_says_why_it_cannot(model) -> None:
    assert "add_cross_attention" in unsupported_reason(model.config)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"encoder_hidden_states": torch.zeros(3, 4, 24)}, r"shape \(3, 4, 24\); \(2, S, 24\) is needed"),
        ({"encoder_hidden_states": torch.zeros(2, 4, 23)}, r"\(2, S, 24\) is needed"),
        ({"encoder_hidden_states": torch.zeros(2, 24)}, r"\(2, S, 24\) is needed"),
        ({"encoder_hidden_states": torch.zeros(2, 0, 24)}, r"\(2, S, 24\) is needed"),
        ({"encoder_attention_mask": torch.ones(2, 4)}, "without encoder_hidden_states"),
        (
            {"encoder_hidden_states": torch.zeros(2, 4, 24), "encoder_attention_mask": torch.ones(2, 5)},
            r"shape \(2, 5\); \(2, 4\) is needed",
        ),
        (
            {
                "encoder_hidden_states": torch.zeros(2, 4, 24),
                "encoder_attention_mask": torch.ones(1, 1, 5, 3),
            },
            r"\(2, 1, 5, 4\) is needed",
        ),
    ],
)
def test_encoders_that_do_not_fit_are_refused(model, inputs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(IDS, **inputs)


def test_a_model_without_cross_attention_refuses_an_encoder(states) -> None:
    model = GPT2LMHeadModel(GPT2Config(**SETTINGS | {"add_cross_attention": False}))
    with pytest.raises(ValueError, match=r"config\.add_cross_attention=True"):
        model(IDS, encoder_hidden_states=states)
