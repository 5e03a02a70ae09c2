"""The network gives what Transformers' gives, over random configurations, inputs and attention back ends.

One case is one seed, which chooses a model class, a shape, both Mistral flags, a back end, masks and the
optional inputs; a failure names it. Tolerances are of the largest expected value: float32 2e-5, gradients
1e-4, which is what sums in another order differ by at these sizes. In bfloat16 a rounding is 4e-3 and a norm
over few channels magnifies it, so both are held against float32: our mean error is at most three times the
oracle's and 1e-2 of the largest value.

The oracle always computes with its eager back end: its fused one gives no attentions and ignores
reorder_and_upcast_attn. What a masked position itself holds is nobody's business and not compared.
"""

import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers

import gpt2kit.model
from gpt2kit.config import GPT2Config
from gpt2kit.model.activations import ACTIVATIONS
from random_models import random_options

TOLERANCE = 2e-5
GRADIENT_TOLERANCE = 1e-4
BFLOAT16_TOLERANCE = 1e-2
CLASSES = [
    "GPT2Model",
    "GPT2LMHeadModel",
    "GPT2DoubleHeadsModel",
    "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification",
    "GPT2ForQuestionAnswering",
]
PAD = 7
NO_DROPOUT = {
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "summary_first_dropout": 0.0,
    "classifier_dropout": 0.0,
}  # fmt: skip


@dataclass
class Case:
    """Two models of equal weights, what both are called with, and where their outputs count.

    theirs: differences in what the oracle is called with. mask: (B, ..., T) bool, the positions to compare.
    """

    ours: Any
    theirs: Any
    inputs: dict[str, Any]
    differences: dict[str, Any]
    mask: torch.Tensor


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Threads cost these small models more than they give, many times more on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def models(name: str, seed: int, r: random.Random, **overrides: Any) -> tuple[Any, Any]:
    """Our model and the oracle's of a class, with the same random weights, biases and norms included."""
    n_head = r.randint(1, 4)
    settings = random_options(r) | {"n_head": n_head, "n_embd": n_head * r.choice([4, 5, 8, 16])}
    settings |= NO_DROPOUT | {"pad_token_id": PAD, "num_labels": r.randint(1, 4), "summary_type": "cls_index"}
    settings["vocab_size"] = max(settings["vocab_size"], 12)
    settings["n_positions"] = max(settings["n_positions"], 16)
    settings["n_layer"] = r.randint(1, 3)
    settings["activation_function"] = sorted(ACTIVATIONS)[seed % len(ACTIVATIONS)]
    settings["initializer_range"] = 0.8 / settings["n_embd"] ** 0.5
    settings["add_cross_attention"] = r.random() < 0.3
    settings |= overrides
    torch.manual_seed(seed)
    ours = getattr(gpt2kit.model, name)(GPT2Config(**settings)).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    config = transformers.GPT2Config(**settings, attn_implementation="eager")
    theirs = getattr(transformers, name)(config).eval()
    result = theirs.load_state_dict(ours.state_dict(), strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    return ours, theirs


def make_case(seed: int, **overrides: Any) -> Case:
    r = random.Random(seed)
    name = CLASSES[seed % len(CLASSES)]
    ours, theirs = models(name, seed, r, **overrides)
    ours.set_attn_implementation(r.choice(["sdpa", "sdpa", "eager"]))
    config = ours.config
    B, T = r.randint(1, 3), r.randint(1, 12)
    shape = (B, 2, T) if name == "GPT2DoubleHeadsModel" else (B, T)
    rows = B * 2 if name == "GPT2DoubleHeadsModel" else B
    ids = torch.randint(PAD + 1, config.vocab_size, shape)
    inputs: dict[str, Any] = {"input_ids": ids}
    differences: dict[str, Any] = {}
    mask, padding = padding_mask(r, shape)
    if padding == "full":
        allowed = (torch.rand(rows, 1, T, T) < 0.6) | torch.eye(T, dtype=torch.bool)
        added = torch.zeros(rows, 1, T, T).masked_fill(~allowed, torch.finfo(torch.float32).min)
        inputs["attention_mask"] = allowed if r.random() < 0.5 else added
        differences["attention_mask"] = added
    elif padding != "none":
        ids[~mask] = PAD
        inputs["attention_mask"] = mask.long()
    if r.random() < 0.4:
        inputs["position_ids"] = (mask.reshape(rows, T).cumsum(-1) - 1).clamp(min=0)
    if r.random() < 0.4:
        inputs["token_type_ids"] = torch.randint(0, config.vocab_size, shape)
    judges_padding = name == "GPT2ForSequenceClassification"
    if r.random() < 0.2 and not judges_padding:
        inputs["inputs_embeds"] = torch.randn(*shape, config.n_embd)
        del inputs["input_ids"]
        if name == "GPT2DoubleHeadsModel":  # the oracle takes embeddings of 3 dimensions only
            inputs["input_ids"] = ids
            del inputs["inputs_embeds"]
    if config.add_cross_attention and r.random() < 0.8:
        inputs |= encoder_inputs(r, rows, T, config.n_embd)
        if inputs.get("encoder_attention_mask") is not None and inputs["encoder_attention_mask"].dim() == 4:
            allowed = inputs["encoder_attention_mask"]
            differences["encoder_attention_mask"] = torch.zeros(allowed.shape).masked_fill(~allowed, -1e30)
    add_labels(name, r, ids, mask, config.num_labels, inputs)
    if padding in ("left", "holes"):
        # A softmax over positions of which some see nothing.
        inputs.pop("start_positions", None)
    return Case(ours, theirs, inputs, differences, mask)


def padding_mask(r: random.Random, shape: tuple[int, ...]) -> tuple[torch.Tensor, str]:
    """Positions that hold something, at least one a row, and the kind of mask."""
    kind = r.choice(["none", "ones", "left", "right", "holes", "full"])
    mask = torch.ones(shape, dtype=torch.bool)
    T = shape[-1]
    for row in mask.view(-1, T):
        if kind == "left":
            row[: r.randrange(T)] = False
        elif kind == "right":
            row[T - r.randrange(T) :] = False
        elif kind == "holes":
            row[torch.rand(T) < 0.4] = False
            row[r.randrange(T)] = True
    return mask, kind


def encoder_inputs(r: random.Random, rows: int, T: int, n_embd: int) -> dict[str, Any]:
    S = r.randint(1, 6)
    inputs: dict[str, Any] = {"encoder_hidden_states": torch.randn(rows, S, n_embd)}
    kind = r.choice(["none", "rows", "full"])
    if kind == "rows":
        inputs["encoder_attention_mask"] = torch.ones(rows, S, dtype=torch.long)
        inputs["encoder_attention_mask"][0, r.randrange(S) + 1 :] = 0
    elif kind == "full":
        allowed = torch.rand(rows, 1, T, S) < 0.6
        allowed[..., 0] = True
        inputs["encoder_attention_mask"] = allowed
    return inputs


def add_labels(
    name: str, r: random.Random, ids: torch.Tensor, mask: torch.Tensor, N: int, inputs: dict[str, Any]
) -> None:
    """Labels that no masked position counts for."""
    B, T = ids.shape[0], ids.shape[-1]
    # A target is read at the position before it.
    readable = mask & torch.cat((mask[..., :1], mask[..., :-1]), dim=-1)
    if name in ("GPT2LMHeadModel", "GPT2DoubleHeadsModel"):
        inputs["labels"] = ids.masked_fill(~readable | (torch.rand(ids.shape) < 0.2), -100)
    if name == "GPT2LMHeadModel" and r.random() < 0.3:
        inputs["num_items_in_batch"] = r.randint(1, 9)
    if name == "GPT2DoubleHeadsModel":
        inputs["mc_token_ids"] = mask.int().argmax(-1)  # the first position that is there
        inputs["mc_labels"] = torch.randint(0, 2, (B,))
    if name == "GPT2ForTokenClassification":
        inputs["labels"] = torch.randint(0, N, ids.shape).masked_fill(~mask, -100)
    if name == "GPT2ForSequenceClassification":
        inputs["labels"] = torch.randint(0, N, (B,)) if N > 1 else torch.randn(B)
    if name == "GPT2ForQuestionAnswering":
        inputs["start_positions"] = torch.randint(-2, T + 2, (B,))
        inputs["end_positions"] = torch.randint(-2, T + 2, (B,))


def difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest expected value."""
    assert got.shape == expected.shape
    if expected.isnan().any():  # the mean over no target at all
        assert torch.equal(got.isnan(), expected.isnan())
        return 0.0
    if not expected.numel():
        return 0.0
    return ((got - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()


def compare(case: Case, got: Any, expected: Any, tolerance: float) -> None:
    """Every field of two outputs, in order, where positions count."""
    mask = case.mask
    assert type(got).__name__ == type(expected).__name__
    assert list(got.keys()) == list(expected.keys())
    flat = mask.reshape(-1, mask.shape[-1])
    for key, value in expected.items():
        if key == "past_key_values":
            assert got[key].get_seq_length() == value.get_seq_length()
        elif key == "hidden_states":
            for mine, theirs in zip(got[key], value, strict=True):
                assert difference(mine.reshape(*flat.shape, -1)[flat], theirs.reshape(*flat.shape, -1)[flat]) <= tolerance, key  # fmt: skip
        elif key in ("attentions", "cross_attentions"):
            for mine, theirs in zip(got[key], value, strict=True):
                queries = (x.transpose(1, 2)[flat] for x in (mine, theirs))
                assert difference(*queries) <= tolerance, key
        elif value.dim() >= mask.dim() and value.shape[: mask.dim()] == mask.shape:
            assert difference(got[key][mask], value[mask]) <= tolerance, key
        else:
            assert difference(got[key], value) <= tolerance, key


def losses(output: Any) -> torch.Tensor | None:
    """Sum of what is to be minimised; the trunk has no loss of its own."""
    if "last_hidden_state" in output:
        return None
    found = [output[key] for key in ("loss", "mc_loss") if key in output]
    return sum(found) if found else None


def run_case(seed: int) -> None:
    case = make_case(seed)
    asks = {"output_hidden_states": seed % 2 == 0, "output_attentions": seed % 3 == 0}
    got = case.ours(**case.inputs, **asks)
    expected = case.theirs(**case.inputs | case.differences, **asks)
    compare(case, got, expected, TOLERANCE)
    loss, wanted = losses(got), losses(expected)
    if loss is None or wanted is None or wanted.isnan():
        loss = (
            got[0][case.mask].square().mean() if got[0].shape[: case.mask.dim()] == case.mask.shape else None
        )
        wanted = expected[0][case.mask].square().mean() if loss is not None else None
    if loss is None or wanted is None:
        return
    loss.backward()
    wanted.backward()
    gradients = {n: p.grad for n, p in case.theirs.named_parameters()}
    # Noise in a gradient that is zero by symmetry has no scale of its own: the bias of keys, for one.
    scale = max(g.abs().max() for g in gradients.values() if g is not None)
    for n, parameter in case.ours.named_parameters():
        assert (parameter.grad is None) == (gradients[n] is None), n
        if parameter.grad is not None:
            assert (parameter.grad - gradients[n]).abs().max() <= GRADIENT_TOLERANCE * scale, n


def run_steps(seed: int) -> None:
    """A prompt, a chunk and single tokens, with the mask of cached positions, against the oracle's steps."""
    r = random.Random(seed)
    ours, theirs = models(r.choice(["GPT2Model", "GPT2LMHeadModel"]), seed, r)
    ours.set_attn_implementation(r.choice(["sdpa", "eager"]))
    B, T = r.randint(1, 3), 9
    ids = torch.randint(0, ours.config.vocab_size, (B, T))
    mask, kind = padding_mask(r, (B, T))
    extra = encoder_inputs(r, B, 1, ours.config.n_embd) if ours.config.add_cross_attention else {}
    if "encoder_attention_mask" in extra and extra["encoder_attention_mask"].dim() == 4:
        del extra["encoder_attention_mask"]
    caches: list[Any] = [None, None]
    for start, end in [(0, 4), (4, 7), (7, 8), (8, 9)]:
        outputs = []
        for i, model in enumerate((ours, theirs)):
            inputs = extra | ({} if kind in ("none", "full") else {"attention_mask": mask[:, :end].long()})
            with torch.no_grad():
                output = model(ids[:, start:end], past_key_values=caches[i], use_cache=True, **inputs)
            caches[i] = output.past_key_values
            outputs.append(output[0])
        kept = mask[:, start:end]
        assert difference(outputs[0][kept], outputs[1][kept]) <= TOLERANCE, (start, end)
    assert caches[0].get_seq_length() == T


def run_flex_attention(seed: int) -> None:
    """The back end without gradients on the CPU."""
    case = make_case(seed)
    case.ours.set_attn_implementation("flex_attention")
    asks = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        got, expected = (
            case.ours(**case.inputs, **asks),
            case.theirs(**case.inputs | case.differences, **asks),
        )
    compare(case, got, expected, TOLERANCE)


def run_bfloat16(seed: int) -> None:
    """Ours are as near to the float32 values as the oracle's are."""
    case = make_case(seed)
    half = {k: v.bfloat16() if v.is_floating_point() and k != "labels" else v
            for k, v in case.inputs.items() if torch.is_tensor(v)}  # fmt: skip
    differences = {k: v.bfloat16() for k, v in case.differences.items()}
    with torch.no_grad():
        for parameter in case.theirs.parameters():
            parameter.copy_(parameter.bfloat16())
        exact_inputs = {k: v.float() if v.dtype == torch.bfloat16 else v for k, v in half.items()}
        names = {"GPT2Model": "last_hidden_state", "GPT2ForQuestionAnswering": "start_logits"}
        key = names.get(type(case.ours).__name__, "logits")
        exact = case.theirs(**exact_inputs | case.differences)[key]
        outputs = []
        for inputs, model in ((half, case.ours), (half | differences, case.theirs)):
            outputs.append(model.bfloat16()(**inputs)[key])
    if exact.shape[: case.mask.dim()] == case.mask.shape:
        exact, *outputs = (x[case.mask] for x in (exact, *outputs))
    error, theirs = ((output - exact).abs().mean().item() for output in outputs)
    scale = exact.abs().max().clamp(min=1.0).item()
    assert error <= 3 * theirs + BFLOAT16_TOLERANCE * scale


@pytest.mark.parametrize("name", ["sdpa", "eager"])
@pytest.mark.parametrize("is_padded", [False, True])
def test_training_drops_what_the_oracle_drops(name: str, is_padded: bool) -> None:
    dropout = {"resid_pdrop": 0.2, "embd_pdrop": 0.3, "attn_pdrop": 0.25, "initializer_range": 0.3}
    ours, theirs = models("GPT2LMHeadModel", 0, random.Random(0), **dropout, reorder_and_upcast_attn=False)
    theirs.set_attn_implementation(name)
    ours.set_attn_implementation(name)
    ids = torch.randint(0, ours.config.vocab_size, (2, 8))
    mask = torch.tensor([[1] * 8, [0] * (3 * is_padded) + [1] * (8 - 3 * is_padded)])
    losses = []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(1)
        losses.append(model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("seed", range(240))
def test_outputs_losses_and_gradients(seed: int) -> None:
    run_case(seed)


@pytest.mark.parametrize("seed", range(1000, 1040))
def test_steps_with_a_cache(seed: int) -> None:
    run_steps(seed)


@pytest.mark.parametrize("seed", range(3000, 3006))
def test_flex_attention(seed: int) -> None:
    run_flex_attention(seed)


@pytest.mark.parametrize("seed", range(2000, 2030))
def test_bfloat16(seed: int) -> None:
    run_bfloat16(seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(10_000, 12_000, 100))
def test_two_thousand_more(start: int) -> None:
    for seed in range(start, start + 100):
        for run in (run_case, run_steps, run_bfloat16, *([run_flex_attention] if seed % 20 == 0 else [])):
            try:
                run(seed)
            except Exception as error:
                raise AssertionError(f"{run.__name__}({seed})") from error
