"""Which engine generate() runs on, and that the native one shows the model as it is now."""

import gc
import logging
import weakref

import pytest
import torch
from torch import nn

from gpt2kit import GPT2Config, GPT2LMHeadModel
from gpt2kit.errors import EngineError
from gpt2kit.torch_generation.engines import native_engine, native_obstacle

IDS = torch.tensor([[3, 1, 4, 1, 5]])
LENGTH = {"max_new_tokens": 12, "eos_token_id": None}
TINY = GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=9, n_positions=9, eos_token_id=8, bos_token_id=8)


def same_ids_on_both(model: GPT2LMHeadModel) -> torch.Tensor:
    native = model.generate(IDS, engine="native", **LENGTH)
    assert torch.equal(native, model.generate(IDS, engine="torch", **LENGTH))
    return native


def test_changed_weights_are_seen_at_once(model) -> None:
    before = same_ids_on_both(model)
    engine = native_engine(model)
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight.mul_(-3.0)
        model.transformer.wte.weight[7:].neg_()
        model.transformer.ln_f.bias.add_(0.5)
    after = same_ids_on_both(model)
    assert native_engine(model) is engine  # over the same memory
    assert not torch.equal(before, after)


def test_a_training_step_is_seen(model) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    before = same_ids_on_both(model)
    model.train()(IDS, labels=IDS).loss.backward()
    optimizer.step()
    model.eval()
    assert not torch.equal(before, same_ids_on_both(model))


def test_replaced_weights_are_seen(model) -> None:
    before = same_ids_on_both(model)
    model.transformer.h[1].attn.c_proj.weight = nn.Parameter(torch.randn(24, 24))
    middle = same_ids_on_both(model)
    torch.manual_seed(1)
    model.load_state_dict(GPT2LMHeadModel(model.config).state_dict(), assign=True)
    model.tie_weights()
    after = same_ids_on_both(model)
    assert not torch.equal(before, middle)
    assert not torch.equal(middle, after)
    model.resize_token_embeddings(70)
    same_ids_on_both(model)


def test_an_untied_head_is_used(model) -> None:
    model.config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(torch.randn(60, 24))
    same_ids_on_both(model)


def test_the_engine_goes_with_its_model() -> None:
    model = GPT2LMHeadModel(TINY).eval()
    model.generate(torch.tensor([[1]]), max_new_tokens=1)
    gone = weakref.ref(model.transformer.wte.weight)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_weights_run_natively_in_float32(model, dtype) -> None:
    half = model.to(dtype)
    ids = half.generate(IDS, engine="native", **LENGTH)
    assert torch.equal(ids, half.float().generate(IDS, engine="torch", **LENGTH))


class Loud(nn.Linear):
    pass


def replace_linear(model) -> None:
    head = Loud(24, 60, bias=False)
    head.weight = model.lm_head.weight
    model.lm_head = head


CHANGES = {
    "lm_head is a Loud": replace_linear,
    "hooks": lambda model: model.transformer.h[0].register_forward_hook(lambda module, args, out: out),
    "the model has hooks": lambda model: model.register_forward_pre_hook(lambda module, args: None),
    "training mode": lambda model: model.train(),
    "act was replaced": lambda model: setattr(model.transformer.h[1].mlp, "act", torch.relu),
    "eps is 0.1": lambda model: setattr(model.transformer.ln_f, "eps", 0.1),
    "float64": lambda model: model.double(),
    "is a Parametrized": lambda model: nn.utils.parametrizations.spectral_norm(model.transformer.wpe),
}


@pytest.mark.parametrize(("reason", "change"), CHANGES.items(), ids=CHANGES)
def test_a_model_that_is_not_plain_runs_on_torch(model, reason, change, caplog) -> None:
    change(model)
    assert reason in native_obstacle(model)
    with caplog.at_level(logging.INFO):
        model.generate(IDS, **LENGTH)
    assert "generating on torch" in caplog.text
    with pytest.raises(EngineError, match="the native engine cannot run this"):
        model.generate(IDS, engine="native", **LENGTH)


def test_a_forward_of_ones_own_is_run() -> None:
    class Seven(GPT2LMHeadModel):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits[..., 7] = 1e9
            return output

    model = Seven(TINY).eval()
    assert model.generate(torch.tensor([[1]]), max_new_tokens=3).tolist() == [[1, 7, 7, 7]]
    model.transformer.h[0].register_forward_hook(lambda module, args, out: out)
    output = model.generate(
        torch.tensor([[1]]), max_new_tokens=2, return_dict_in_generate=True, output_hidden_states=True
    )
    assert output.sequences.tolist() == [[1, 7, 7]]
    assert output.hidden_states[1][1].shape == (1, 1, 4)


def test_plain_models_run_natively(model, caplog) -> None:
    with caplog.at_level(logging.INFO):
        model.generate(IDS, **LENGTH)
    assert "generating on the native engine" in caplog.text
    with pytest.raises(EngineError, match="engine is 'gpu'"):
        model.generate(IDS, engine="gpu")
