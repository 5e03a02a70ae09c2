import pytest
import torch

from gpt2kit.model import CausalLMOutputWithCrossAttentions


@pytest.fixture
def output() -> CausalLMOutputWithCrossAttentions:
    return CausalLMOutputWithCrossAttentions(logits=torch.ones(1), hidden_states=(torch.zeros(1),))


def test_fields_are_read_by_attribute_key_and_index(output) -> None:
    assert output.logits is output["logits"] is output[0]
    assert output[1] is output.hidden_states
    assert output[:1] == (output.logits,)


def test_fields_that_are_none_do_not_count(output) -> None:
    assert output.loss is None
    assert list(output) == ["logits", "hidden_states"]
    assert len(output) == 2
    assert output.to_tuple() == (output.logits, output.hidden_states)
    assert dict(output.items()) == {"logits": output.logits, "hidden_states": output.hidden_states}


def test_absent_fields_are_no_keys(output) -> None:
    assert "loss" not in output
    assert output.get("loss", 3) == 3
    with pytest.raises(KeyError, match="loss"):
        output["loss"]
