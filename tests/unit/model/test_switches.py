"""Pruning of heads, gradient checkpointing and tying, on models that are built."""

import pytest
import torch

from gpt2kit.config import GPT2Config
from gpt2kit.engine.native import unsupported_reason
from gpt2kit.errors import CheckpointError, ConfigError
from gpt2kit.model import GPT2ForTokenClassification, GPT2LMHeadModel, GPT2Model, GPT2PreTrainedModel

SETTINGS = {"vocab_size": 60, "n_positions": 16, "n_embd": 24, "n_layer": 3, "n_head": 4}
SETTINGS |= {"bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.3}
IDS = torch.arange(14).view(2, 7)


def build(cls=GPT2LMHeadModel, **settings):
    torch.manual_seed(0)
    return cls(GPT2Config(**SETTINGS | settings)).eval()


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_a_pruned_model_computes_what_masked_heads_leave(name: str) -> None:
    model = build()
    model.set_attn_implementation(name)
    head_mask = torch.ones(3, 4)
    head_mask[0, 1] = head_mask[2, 0] = head_mask[2, 3] = 0
    with torch.no_grad():
        expected = model(IDS, head_mask=head_mask).logits
        model.prune_heads({0: [1], 2: [3, 0]})
        output = model(IDS, output_attentions=True)
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-5)
    assert [weights.shape[1] for weights in output.attentions] == [3, 4, 2]
    assert output.past_key_values[2][0].shape == (2, 2, 7, 6)
    assert model.transformer.h[2].attn.c_attn.weight.shape == (24, 3 * 12)


def test_pruning_counts_heads_as_before_any_pruning() -> None:
    once, twice = build(GPT2Model), build(GPT2Model)
    once.prune_heads({1: [0, 2]})
    twice.prune_heads({1: [0]})
    twice.prune_heads({1: [2, 0]})  # a head that is gone already is no mistake
    assert torch.equal(once(IDS).last_hidden_state, twice(IDS).last_hidden_state)
    assert once.config.pruned_heads == twice.config.pruned_heads == {1: [0, 2]}
    # What is left obeys a head mask in the same counting.
    mask = torch.tensor([1.0, 0.0, 1.0, 0.5])
    assert once(IDS, head_mask=mask).last_hidden_state.isfinite().all()


def test_a_pruned_folder_loads_as_it_is(tmp_path) -> None:
    model = build(tie_word_embeddings=False)
    model.prune_heads({0: [1, 3], 2: [0]})
    model.save_pretrained(tmp_path / "m")
    back = GPT2LMHeadModel.from_pretrained(tmp_path / "m")
    assert back.config.pruned_heads == {0: [1, 3], 2: [0]}
    assert torch.equal(back(IDS).logits, model(IDS).logits)
    back.prune_heads({0: [0]})
    assert back.transformer.h[0].attn.n_head == 1
    assert "heads are pruned" in unsupported_reason(back.config)
    config = GPT2Config.from_pretrained(tmp_path / "m")
    config.pruned_heads = {0: [1]}
    with pytest.raises(CheckpointError, match=r"h.0.attn.c_attn.weight.*\(24, 36\).*\(24, 54\)"):
        GPT2LMHeadModel.from_pretrained(tmp_path / "m", config=config)


def test_pruned_weights_train_and_stay_frozen() -> None:
    model = build()
    model.transformer.h[0].requires_grad_(False)
    model.prune_heads({0: [0], 1: [0]})
    model(IDS, labels=IDS).loss.backward()
    assert model.transformer.h[0].attn.c_attn.weight.grad is None
    assert model.transformer.h[1].attn.c_attn.weight.grad.shape == (24, 54)


@pytest.mark.parametrize(
    "heads", [{3: [0]}, {-1: [0]}, {0: [4]}, {0: [-1]}, {1: [0, 1, 2, 3]}, {0: ["a"]}, {"x": [0]}]
)
def test_heads_that_cannot_be_pruned_are_refused_and_change_nothing(heads: dict) -> None:
    model = build()
    before = model(IDS).logits
    with pytest.raises(ConfigError, match="pruned_heads"):
        model.prune_heads(heads)
    assert torch.equal(model(IDS).logits, before)
    assert model.config.pruned_heads is None


def test_replaced_layers_are_not_pruned() -> None:
    model = build()
    model.transformer.h[1].attn.c_attn = torch.nn.Linear(24, 72)
    with pytest.raises(ConfigError, match="attention's layers are Linear"):
        model.prune_heads({1: [0]})


def test_unpruned_configurations_do_not_mention_heads() -> None:
    assert "pruned_heads" not in GPT2Config(**SETTINGS).to_json_string()


@pytest.mark.parametrize("options", [None, {"use_reentrant": True}, {"use_reentrant": False}])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointed_gradients_are_the_same(options: dict | None, dropout: float) -> None:
    settings = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    model = build(**settings, add_cross_attention=True).train()
    inputs = {"labels": IDS, "attention_mask": torch.tensor([[1] * 7, [0] * 3 + [1] * 4])}
    inputs["encoder_hidden_states"] = torch.randn(2, 3, 24)
    gradients, losses = [], []
    for is_on in (False, True):
        assert model.is_gradient_checkpointing is False
        if is_on:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
            assert model.is_gradient_checkpointing and model.transformer.is_gradient_checkpointing
        model.zero_grad()
        torch.manual_seed(1)
        output = model(IDS, **inputs)
        output.loss.backward()
        losses.append(output.loss.item())
        gradients.append([p.grad for p in model.parameters()])
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert output.past_key_values is None
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def test_checkpointing_keeps_less_for_the_backward_pass() -> None:
    def saved_bytes(model) -> int:
        total = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(IDS, use_cache=False)
        return total

    model = build(GPT2Model).train()
    plain = saved_bytes(model)
    model.gradient_checkpointing_enable()
    assert saved_bytes(model) < plain / 3


def test_checkpointing_acts_in_training_only_and_refuses_a_cache() -> None:
    model = build()
    cache = model(IDS).past_key_values
    model.gradient_checkpointing_enable()
    assert model(IDS).past_key_values.get_seq_length() == 7
    model.train()
    with pytest.raises(ValueError, match="gradient checkpointing cannot extend past_key_values"):
        model(IDS, past_key_values=cache)


def test_gradients_reach_frozen_embeddings_on_request() -> None:
    model = build().train().requires_grad_(False)
    assert not model(IDS).logits.requires_grad
    model.enable_input_require_grads()
    model.enable_input_require_grads()
    assert model(IDS).logits.requires_grad
    model.disable_input_require_grads()
    assert not model(IDS).logits.requires_grad


def test_weights_are_tied_and_parted_live() -> None:
    model = build()
    table = model.transformer.wte.weight
    model.config.tie_word_embeddings = False
    model.tie_weights()
    assert model.lm_head.weight is not table and torch.equal(model.lm_head.weight, table)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert (model(IDS).logits == 0).all()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    assert model.lm_head.weight is table


def test_a_model_of_ones_own_starts_as_the_others_do() -> None:
    class Scorer(GPT2PreTrainedModel):
        def __init__(self, config: GPT2Config) -> None:
            super().__init__(config)
            self.transformer = GPT2Model(config)
            self.scores = torch.nn.Linear(config.n_embd, 50)
            self.post_init()

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.scores(self.transformer(ids).last_hidden_state)

    model = build(Scorer, initializer_range=0.05)
    assert model.scores.weight.std().item() == pytest.approx(0.05, rel=0.1)
    assert (model.scores.bias == 0).all()
    assert (model.transformer.ln_f.weight == 1).all()
    assert model(IDS).shape == (2, 7, 50)
    assert model.base_model is model.transformer and not model.can_generate()


def test_what_a_model_says_of_itself() -> None:
    model = build(GPT2ForTokenClassification)
    assert model.device == torch.device("cpu") and model.dtype == torch.float32
    assert model.half().dtype == torch.float16
    assert not model.can_generate() and GPT2LMHeadModel.can_generate()
    assert model.main_input_name == "input_ids" and model.config_class is GPT2Config
    assert model.name_or_path == ""
    assert model.supports_gradient_checkpointing
