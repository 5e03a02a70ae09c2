"""Wrong inputs of a forward pass give one clear error each."""

import pytest
import torch

from gpt2kit.model.cache.caches import DynamicCache

IDS = torch.arange(8).view(2, 4)
HOSTILE = [
    ({}, "either input_ids or inputs_embeds"),
    ({"input_ids": IDS, "inputs_embeds": torch.zeros(2, 4, 12)}, "cannot specify both"),
    ({"input_ids": IDS.float()}, "input_ids is torch.float32; give int64 or int32"),
    ({"input_ids": IDS.bool()}, "input_ids is torch.bool"),
    ({"input_ids": torch.arange(4)}, r"input_ids has the shape \(4,\); \(B, T\) is needed"),
    ({"input_ids": torch.tensor(3)}, r"input_ids has the shape \(\)"),
    ({"input_ids": IDS + 60}, "input_ids holds 67; allowed: 0 to 59"),
    ({"input_ids": IDS - 1}, "input_ids holds -1; allowed: 0 to 59"),
    ({"input_ids": IDS[:0]}, r"shape \(0, 4\), which is empty"),
    ({"input_ids": IDS[:, :0]}, r"shape \(2, 0\), which is empty"),
    ({"inputs_embeds": torch.zeros(2, 4, 11)}, r"inputs_embeds has the shape \(2, 4, 11\); \(B, T, 12\)"),
    ({"inputs_embeds": torch.zeros(4, 12)}, r"\(B, T, 12\) is needed"),
    ({"inputs_embeds": torch.zeros(2, 0, 12)}, "which is empty"),
    ({"input_ids": IDS, "position_ids": torch.full((2, 4), 16)}, "position_ids holds 16; allowed: 0 to 15"),
    ({"input_ids": IDS, "position_ids": torch.full((2, 4), -1)}, "position_ids holds -1"),
    ({"input_ids": IDS, "position_ids": torch.zeros(2, 4)}, "position_ids is torch.float32"),
    ({"input_ids": IDS, "position_ids": torch.zeros(2, 3).long()}, r"position_ids has the shape \(2, 3\)"),
    ({"input_ids": IDS, "position_ids": torch.zeros(3, 4).long()}, r"position_ids has the shape \(3, 4\)"),
    ({"input_ids": IDS, "token_type_ids": IDS + 60}, "token_type_ids holds 67"),
    ({"input_ids": IDS, "token_type_ids": IDS[:, :2]}, r"token_type_ids has the shape \(2, 2\)"),
    ({"input_ids": IDS, "token_type_ids": IDS.half()}, "token_type_ids is torch.float16"),
    ({"input_ids": IDS, "attention_mask": torch.ones(2, 3)}, r"shape \(2, 3\); it must cover 2 rows of 4"),
    ({"input_ids": IDS, "attention_mask": torch.ones(1, 4)}, "must cover 2 rows"),
    ({"input_ids": IDS, "attention_mask": torch.ones(2, 1, 4, 4).long()}, "give bool, True to see, or float"),
    ({"input_ids": IDS, "attention_mask": torch.ones(2, 1, 4, 3)}, r"\(2, 1, 4, 4\) is needed"),
    ({"input_ids": IDS, "attention_mask": torch.ones(3, 1, 4, 4)}, r"\(2, 1, 4, 4\) is needed"),
    ({"input_ids": IDS, "attention_mask": torch.ones(2, 2, 4, 4)}, r"\(2, 1, 4, 4\) is needed"),
    ({"input_ids": IDS, "past_key_values": ()}, "Passing a tuple of `past_key_values`"),
    (
        {"input_ids": IDS, "past_key_values": [(torch.zeros(1), torch.zeros(1))]},
        "DynamicCache\\(past_key_values\\) makes one",
    ),
    ({"input_ids": IDS, "head_mask": torch.ones(5)}, "head_mask has the shape"),
    ({"input_ids": IDS, "logits_to_keep": -1}, "logits_to_keep is -1"),
    ({"input_ids": IDS, "logits_to_keep": torch.tensor([0, 4])}, "there are positions 0 to 3"),
]


@pytest.mark.parametrize(("inputs", "message"), HOSTILE)
def test_wrong_inputs_give_one_clear_error(model, inputs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(**inputs)


def test_a_refused_input_leaves_the_cache_as_it_is(model) -> None:
    cache = model(IDS).past_key_values
    for inputs, _ in HOSTILE:
        if "past_key_values" not in inputs:
            with pytest.raises(ValueError):
                model(**inputs, past_key_values=cache)
    assert isinstance(cache, DynamicCache) and cache.get_seq_length() == 4


def test_wider_types_and_shapes_that_broadcast_are_taken(model) -> None:
    expected = model(IDS).logits
    mask = torch.ones(4, 4).tril()
    added = torch.zeros(4, 4).masked_fill(mask == 0, -torch.inf)
    for inputs in (
        {"input_ids": IDS.int()},
        {"input_ids": IDS, "position_ids": torch.arange(4)[None]},
        {"input_ids": IDS, "position_ids": torch.arange(4)},
        {"input_ids": IDS, "attention_mask": torch.ones(2, 4, dtype=torch.bool)},
        {"input_ids": IDS, "attention_mask": torch.ones(2, 4)},
        {"input_ids": IDS, "attention_mask": mask.bool()[None, None]},
        {"input_ids": IDS, "attention_mask": mask.bool().expand(2, 3, 4, 4)},
        {"input_ids": IDS, "attention_mask": added[None, None]},
        {"input_ids": IDS, "attention_mask": added[None, None].double()},
    ):
        torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-5, atol=1e-6)
