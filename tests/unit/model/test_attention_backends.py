"""Every back end computes the same attention; sdpa by torch's fused kernels."""

import sys
import types
from importlib.machinery import ModuleSpec

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError, EngineError, MissingDependencyError
from gpt2kit.model import GPT2LMHeadModel, GPT2Model, attention_backends
from gpt2kit.model.attention_backends import ATTENTION_BACKENDS, eager

FLASH_KERNEL = "aten::_scaled_dot_product_flash_attention_for_cpu"
MATHS_KERNEL = "aten::_scaled_dot_product_attention_math"
FLAGS = [(True, False), (True, True), (False, True), (False, False)]


def build(**settings) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    defaults = {"vocab_size": 60, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 3}
    defaults |= {"initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**defaults | settings)).eval()


def kernels(model: GPT2LMHeadModel, *args, **inputs) -> set[str]:
    """Names of torch's attention kernels that a forward pass runs."""
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as run:
        model(*args, **inputs)
    return {event.key for event in run.key_averages() if "_scaled_dot_product" in event.key}


def test_a_prompt_and_a_step_run_torchs_fused_kernel(model) -> None:
    ids = torch.arange(8)[None]
    assert kernels(model, ids) == {FLASH_KERNEL}
    with torch.no_grad():
        cache = model(ids).past_key_values
    assert kernels(model, ids[:, :1], past_key_values=cache) == {FLASH_KERNEL}
    assert kernels(model, ids[:, :3], past_key_values=cache) == {FLASH_KERNEL}


def test_padding_runs_torchs_fused_kernel_too(model) -> None:
    mask = torch.tensor([[0, 0, 1, 1]])
    assert kernels(model, torch.zeros(1, 4).long(), attention_mask=mask) == {FLASH_KERNEL}


def test_a_causal_prompt_needs_no_mask(model, monkeypatch) -> None:
    monkeypatch.setattr(
        attention_backends.AttentionMask, "dense", lambda *args: pytest.fail("a mask was built")
    )
    ids = torch.arange(8)[None]
    model(ids)
    model(ids, attention_mask=torch.ones(1, 8))  # a mask that hides nothing is none


def test_dropout_acts_on_weights_in_training() -> None:
    model = build(attn_pdrop=0.5, resid_pdrop=0.0, embd_pdrop=0.0).train()
    ids = torch.arange(8)[None]
    for name in ("sdpa", "eager"):
        model.set_attn_implementation(name)
        torch.manual_seed(1)
        first = model(ids).logits
        torch.manual_seed(1)
        assert torch.equal(model(ids).logits, first)
        assert not torch.allclose(model(ids).logits, first)
    model.set_attn_implementation("flex_attention")
    with pytest.raises(EngineError, match="flex_attention has no dropout"):
        model(ids)


@pytest.mark.parametrize("flags", FLAGS)
def test_scaling_flags_act_on_every_backend(flags: tuple[bool, bool]) -> None:
    model = build(scale_attn_weights=flags[0], scale_attn_by_inverse_layer_idx=flags[1])
    ids = torch.randint(0, 60, (2, 7))
    mask = torch.tensor([[1] * 7, [0, 0, 1, 1, 1, 1, 1]])
    with torch.no_grad():
        model.set_attn_implementation("eager")
        expected = model(ids, attention_mask=mask).logits
        for name in ("sdpa", "flex_attention"):
            model.set_attn_implementation(name)
            got = model(ids, attention_mask=mask).logits
            torch.testing.assert_close(got[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sdpa", "eager", "flex_attention"])
def test_upcasting_acts_on_every_backend(name: str) -> None:
    # Scores of a size at which half precision rounds by whole units.
    plain, upcast = (
        build(reorder_and_upcast_attn=flag, initializer_range=3.0, scale_attn_weights=False, n_layer=1)
        for flag in (False, True)
    )
    ids = torch.randint(0, 60, (2, 9))
    with torch.no_grad():
        exact = plain(ids, output_attentions=True).attentions[0]
        errors = []
        for model in (plain, upcast):
            model.bfloat16().set_attn_implementation(name)
            weights = model(ids, output_attentions=True).attentions[0]
            assert weights.dtype == torch.bfloat16
            errors.append((weights.float() - exact).abs().mean())
            assert model(ids).logits.isfinite().all()
    assert errors[1] < errors[0]


def test_upcasting_does_not_lower_float64() -> None:
    model = build(reorder_and_upcast_attn=True).double()
    plain = build().double()
    ids = torch.arange(6)[None]
    torch.testing.assert_close(model(ids).logits, plain(ids).logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["sdpa", "flex_attention"])
def test_asking_for_attentions_leaves_the_output_as_it_is(name: str) -> None:
    model = build()
    ids = torch.randint(0, 60, (2, 9))
    with torch.no_grad():
        model.set_attn_implementation(name)
        plain, asked = model(ids), model(ids, output_attentions=True)
        assert torch.equal(plain.logits, asked.logits)
        model.set_attn_implementation("eager")
        expected = model(ids, output_attentions=True)
    for weights, others in zip(asked.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(weights, others, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 9))


@pytest.mark.parametrize("name", ["sdpa", "eager", "flex_attention"])
def test_heads_are_masked_on_every_backend(name: str) -> None:
    model = build()
    ids = torch.randint(0, 60, (2, 5))
    head_mask = torch.tensor([[1.0, 0.0, 0.5], [1.0, 1.0, 1.0]])
    model.set_attn_implementation(name)
    with torch.no_grad():
        got = model(ids, head_mask=head_mask, output_attentions=True)
        # The reference: the rows of c_proj that a head feeds, scaled.
        projection = model.transformer.h[0].attn.c_proj.weight
        projection.mul_(head_mask[0].repeat_interleave(8)[:, None])
        expected = model(ids, output_attentions=True)
    torch.testing.assert_close(got.logits, expected.logits, rtol=1e-4, atol=1e-5)
    factors = head_mask[0, None, :, None, None]
    torch.testing.assert_close(got.attentions[0], expected.attentions[0] * factors, rtol=1e-4, atol=1e-6)


def test_masks_of_heads_have_many_shapes() -> None:
    model = build()
    ids = torch.randint(0, 60, (2, 5))
    one = torch.tensor([1.0, 0.0, 0.5])
    expected = model(ids, head_mask=one).logits
    for shape in ((1, 1, 3, 1, 1), (1, 1, 3, 5, 1), (1, 2, 3, 5, 5)):
        mask = one.reshape(1, 1, 3, 1, 1).expand(shape)
        torch.testing.assert_close(model(ids, head_mask=mask).logits, expected, rtol=1e-4, atol=1e-5)
    both = one.expand(2, 3)
    torch.testing.assert_close(model(ids, head_mask=both).logits, expected, rtol=0, atol=0)
    for wrong in (torch.ones(2), torch.ones(3, 3), torch.ones(2, 1, 3, 1)):
        with pytest.raises(ValueError, match=r"head_mask has the shape .*\(3,\), \(2, 3\) or"):
            model(ids, head_mask=wrong)


def test_a_mask_of_single_weights_takes_them_away() -> None:
    model = build(n_layer=1)
    ids = torch.randint(0, 60, (1, 4))
    mask = torch.ones(1, 1, 3, 4, 4)
    mask[..., 3, 0] = 0.0
    output = model(ids, head_mask=mask, output_attentions=True)
    weights = model(ids, output_attentions=True).attentions[0].clone()
    weights[..., 3, 0] = 0.0
    torch.testing.assert_close(output.attentions[0], weights, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        output.logits[:, :3], model(ids).logits[:, :3], rtol=1e-4, atol=1e-5
    )  # the last position alone is another
    assert not torch.allclose(output.logits[:, 3], model(ids).logits[:, 3])


def test_importance_of_heads_has_gradients() -> None:
    model = build()
    head_mask = torch.ones(2, 3, requires_grad=True)
    ids = torch.randint(0, 60, (2, 5))
    model(ids, labels=ids, head_mask=head_mask).loss.backward()
    assert head_mask.grad.shape == (2, 3) and (head_mask.grad != 0).all()


def test_backends_are_switched_live_for_the_whole_model() -> None:
    model = build()
    ids = torch.arange(6)[None]
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        assert model.attn_implementation == model.transformer.attn_implementation == name
        assert bool(kernels(model, ids)) is (name == "sdpa")
    model.config.attn_implementation = "eager"  # the configuration decides, call by call
    assert not kernels(model, ids)


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    allowed = "must be one of sdpa, eager, flash_attention_2, flex_attention"
    model = build()
    with pytest.raises(ConfigError, match=allowed):
        model.set_attn_implementation("paged")
    assert model.attn_implementation == "sdpa"
    with pytest.raises(ConfigError, match=allowed):
        GPT2Model(GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=5, attn_implementation="fast"))
    model.config.attn_implementation = "fast"
    with pytest.raises(ConfigError, match=allowed):
        model(torch.arange(3)[None])


def test_a_backend_of_ones_own_is_one_entry_of_the_table(monkeypatch) -> None:
    calls = []

    def mine(query, key, value, mask, scaling, dropout):
        calls.append(scaling)
        return eager(query, key, value, mask, scaling, dropout)

    monkeypatch.setitem(ATTENTION_BACKENDS, "mine", mine)
    model = build()
    expected = model(torch.arange(6)[None]).logits
    model.set_attn_implementation("mine")
    torch.testing.assert_close(model(torch.arange(6)[None]).logits, expected, rtol=1e-4, atol=1e-5)
    assert calls == [8**-0.5] * 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_a_forward_pass_compiles_into_one_graph(name: str) -> None:
    model = build()
    model.set_attn_implementation(name)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    ids = torch.randint(0, 60, (2, 7))
    with torch.no_grad():
        for inputs in ({}, {"attention_mask": torch.tensor([[1] * 7, [0, 0, 1, 1, 1, 1, 1]])}):
            got, expected = compiled(ids, **inputs), model(ids, **inputs)
            torch.testing.assert_close(got.logits, expected.logits, rtol=1e-4, atol=1e-5)
            assert got.past_key_values.get_seq_length() == 7


def test_flex_attention_has_no_gradients_on_the_cpu() -> None:
    model = build()
    model.set_attn_implementation("flex_attention")
    with pytest.raises(EngineError, match="no gradients on the CPU"):
        model(torch.arange(6)[None])


def test_flash_attention_2_names_what_is_missing() -> None:
    # CI machines have neither the package nor the device.
    with pytest.raises(MissingDependencyError, match=r"needs the package flash_attn.*CUDA device"):
        build().set_attn_implementation("flash_attention_2")
    with pytest.raises(MissingDependencyError, match="flash_attn"):
        build(attn_implementation="flash_attention_2")


@pytest.fixture
def flash(monkeypatch) -> types.ModuleType:
    """A stand-in for the flash_attn package, with its layouts and written from its documentation."""

    def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):
        scores = torch.einsum("bthd,bshd->bhts", q.double(), k.double()) * softmax_scale
        if causal:  # aligned at the last key
            T, S = scores.shape[-2:]
            scores = scores.masked_fill(~torch.ones(T, S).bool().tril(S - T), -torch.inf)
        return torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v.double()).to(q.dtype)

    def flash_attn_varlen_func(q, k, v, cu_q, cu_k, max_q, max_k, **options):
        assert cu_q.dtype == cu_k.dtype == torch.int32
        assert cu_q.diff().max() == max_q and cu_k.diff().max() == max_k
        rows = [
            flash_attn_func(q[a:b][None], k[c:d][None], v[c:d][None], **options)[0]
            for a, b, c, d in zip(cu_q[:-1], cu_q[1:], cu_k[:-1], cu_k[1:], strict=True)
        ]
        return torch.cat(rows)

    module = types.ModuleType("flash_attn")
    module.__spec__ = ModuleSpec("flash_attn", None)
    module.flash_attn_func, module.flash_attn_varlen_func = flash_attn_func, flash_attn_varlen_func
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    return module


def test_flash_attention_2_needs_cuda_half_precision_and_plain_masks(flash) -> None:
    model = build()
    model.set_attn_implementation("flash_attention_2")
    with pytest.raises(EngineError, match="needs a CUDA device; the model is on cpu"):
        model(torch.arange(3)[None])


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_flash_attention_2_is_called_for_what_the_others_compute(flash, monkeypatch, side: str) -> None:
    monkeypatch.setattr(attention_backends, "_check_flash", lambda query, mask: None)
    model = build(add_cross_attention=True, scale_attn_by_inverse_layer_idx=True)
    ids = torch.randint(0, 60, (2, 8))
    mask = torch.ones(2, 8, dtype=torch.long)
    if side != "none":
        mask[1, slice(0, 3) if side == "left" else slice(5, 8)] = 0
    encoder = {"encoder_hidden_states": torch.randn(2, 4, 24)}
    encoder["encoder_attention_mask"] = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0]])
    outputs = {}
    for name in ("eager", "flash_attention_2"):
        model.set_attn_implementation(name)
        with torch.no_grad():
            first = model(ids[:, :6], attention_mask=mask[:, :6], **encoder)
            second = model(ids[:, 6:], attention_mask=mask, past_key_values=first.past_key_values, **encoder)
        outputs[name] = torch.cat((first.logits, second.logits), dim=1)[mask.bool()]
    torch.testing.assert_close(outputs["flash_attention_2"], outputs["eager"], rtol=1e-4, atol=1e-5)


def test_flash_attention_2_refuses_other_types_and_masks() -> None:
    check = attention_backends._check_flash

    class OnCuda(torch.Tensor):
        device = torch.device("cuda", 0)

    plain = attention_backends.AttentionMask(is_causal=True)
    with pytest.raises(EngineError, match=r"float16 or bfloat16; the model is torch\.float32"):
        check(torch.zeros(1).as_subclass(OnCuda), plain)
    half = torch.zeros(1, dtype=torch.float16).as_subclass(OnCuda)
    check(half, plain)
    with pytest.raises(EngineError, match="masks of 2 dimensions only"):
        check(half, attention_backends.AttentionMask(is_causal=False, full=torch.ones(1, 1, 1, 1)))
