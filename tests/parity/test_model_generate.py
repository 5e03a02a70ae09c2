"""model.generate() beside Transformers' on random models, batches and options: the same ids and outputs."""

import random
import warnings

import pytest
import torch
import transformers

import gpt2kit
from random_models import random_pair

TOLERANCE = 2e-5  # float32, relative to the largest value


@pytest.fixture(autouse=True)
def one_thread():
    """Threads cost more than they give where models are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return ours.shape == theirs.shape and bool((ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max())


def random_batch(rng: random.Random, vocab_size: int, *, sides: list[str]) -> dict[str, torch.Tensor]:
    """Rows of random lengths, padded with id 0, and their mask."""
    B, T = rng.randint(1, 4), rng.randint(1, 12)
    ids = torch.tensor([[rng.randrange(1, vocab_size) for _ in range(T)] for _ in range(B)])
    mask = torch.ones(B, T, dtype=torch.long)
    side = rng.choice(sides)
    for row in range(1, B):
        num_padding = rng.randrange(T)
        if side == "left":
            mask[row, :num_padding] = 0
        elif side == "none":
            mask[row] = 1
    return {"input_ids": ids * mask, "attention_mask": mask}


def random_call(rng: random.Random, vocab_size: int, *, is_padded: bool) -> dict:
    """Options that leave nothing to chance; those that Transformers lets look at padding only where there is none."""
    # Not 0, which Transformers' beams take for none and fill with the end token.
    options: dict = {"max_new_tokens": rng.randint(1, 14), "pad_token_id": 4}
    options["eos_token_id"] = rng.choice([None, rng.randrange(vocab_size), [1, rng.randrange(vocab_size)]])
    if rng.random() < 0.3:
        options["min_new_tokens"] = rng.randint(0, 9)
    if rng.random() < 0.3:
        options["bad_words_ids"] = [[rng.randrange(vocab_size)], [2, 1]]
    if rng.random() < 0.2:
        options["suppress_tokens"] = [rng.randrange(vocab_size)]
    if rng.random() < 0.2:
        options["begin_suppress_tokens"] = [rng.randrange(vocab_size)]
    if rng.random() < 0.2:
        options["sequence_bias"] = {(rng.randrange(vocab_size),): rng.uniform(-9, 9)}
    if rng.random() < 0.2 and options["eos_token_id"] is not None:
        options["exponential_decay_length_penalty"] = (rng.randint(0, 5), rng.choice([1.1, 1.5]))
    if rng.random() < 0.2:
        options["renormalize_logits"] = True
    if rng.random() < 0.3:
        options["num_beams"] = rng.randint(2, 3)
        options["num_return_sequences"] = rng.randint(1, 2)
        options["length_penalty"] = rng.choice([0.0, 0.7, 1.0])
    if not is_padded:
        if rng.random() < 0.2:
            options["encoder_repetition_penalty"] = 1.4
        if rng.random() < 0.2:
            options["encoder_no_repeat_ngram_size"] = rng.randint(1, 2)
        if rng.random() < 0.3:
            options["repetition_penalty"] = rng.choice([0.8, 1.3, 2.0])
        if rng.random() < 0.3:
            options["no_repeat_ngram_size"] = rng.randint(1, 3)
    if rng.random() < 0.2:
        options["cache_implementation"] = rng.choice(["dynamic", "static"])
    if rng.random() < 0.2:
        options["logits_to_keep"] = 1
    return options


def both(theirs, ours, inputs: dict, options: dict, **more):
    """Generate with both; warnings about padding and lengths do not matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ours.generate(**inputs, **options, **more), theirs.generate(**inputs, **options)


def check_ids(seed: int) -> None:
    rng = random.Random(seed)
    sizes = {"n_layer": rng.randint(1, 2), "n_head": 2, "n_embd": rng.choice([6, 16, 32])}
    # More tokens than bans can use up: with none left we raise an error and Transformers takes id 0.
    theirs, ours = random_pair(seed, n_positions=60, vocab_size=rng.randint(45, 90), **sizes)
    inputs = random_batch(rng, ours.config.vocab_size, sides=["none", "left"])
    is_padded = bool((inputs["attention_mask"] == 0).any())
    options = random_call(rng, ours.config.vocab_size, is_padded=is_padded)
    for engine in ("auto", "torch"):
        generated, expected = both(theirs, ours, inputs, options, engine=engine)
        assert torch.equal(generated, expected), (engine, options)


@pytest.mark.parametrize("seed", range(200))
def test_ids_are_those_of_transformers(seed) -> None:
    check_ids(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 3000))
def test_ids_are_those_of_transformers_at_length(seed) -> None:
    check_ids(seed)


@pytest.mark.parametrize("seed", range(12))
def test_output_dictionaries_hold_the_same(seed) -> None:
    rng = random.Random(seed)
    theirs, ours = random_pair(seed, n_positions=40, n_layer=2, n_head=2, n_embd=16)
    vocab_size = ours.config.vocab_size
    inputs = random_batch(rng, vocab_size, sides=["none", "left"])
    # No end token, so every row is alive at every step.
    options = {"max_new_tokens": rng.randint(1, 6), "eos_token_id": None, "pad_token_id": 0}
    kept = ["scores", "logits", "attentions", "hidden_states"]
    options |= {"return_dict_in_generate": True, **{f"output_{name}": True for name in kept}}
    if rng.random() < 0.5:
        options["bad_words_ids"] = [[1]]
    generated, expected = both(theirs, ours, inputs, options)
    assert list(generated.keys()) == list(expected.keys())
    assert torch.equal(generated.sequences, expected.sequences)
    assert isinstance(generated, gpt2kit.GenerateDecoderOnlyOutput)
    mask = inputs["attention_mask"]
    for step in range(options["max_new_tokens"]):
        assert close(generated.logits[step], expected.logits[step])
        is_finite = expected.scores[step].isfinite()
        assert torch.equal(generated.scores[step].isfinite(), is_finite)
        assert close(generated.scores[step][is_finite], expected.scores[step][is_finite])
        # At columns of padding Transformers has values that nobody asked for, and we have zeros.
        is_query = mask[:, :, None] if step == 0 else torch.ones(len(mask), 1, 1)
        for a, b in zip(generated.hidden_states[step], expected.hidden_states[step], strict=True):
            assert close(a, b * is_query)
        for a, b in zip(generated.attentions[step], expected.attentions[step], strict=True):
            assert close(a, b * is_query[:, None])
    for normalize in (False, True):
        scores = [
            model.compute_transition_scores(out.sequences, out.scores, normalize_logits=normalize)
            for model, out in ((ours, generated), (theirs, expected))
        ]
        assert close(scores[0], scores[1])
    cache = generated.past_key_values
    assert cache.get_seq_length() == expected.past_key_values.get_seq_length()
    held = torch.cat((mask, torch.ones(len(mask), cache.get_seq_length() - mask.shape[1])), dim=1)
    for layer_idx in range(2):
        theirs_held = expected.past_key_values.layers[layer_idx].keys * held[:, None, :, None]
        assert close(cache.layers[layer_idx].keys, theirs_held)


@pytest.mark.parametrize("seed", range(10))
def test_a_conversation_goes_on_from_its_cache(seed) -> None:
    rng = random.Random(seed)
    theirs, ours = random_pair(seed, n_positions=80, n_layer=1, n_head=2, n_embd=16)
    vocab_size = ours.config.vocab_size
    inputs = random_batch(rng, vocab_size, sides=["none", "left"])
    options = {"max_new_tokens": 4, "eos_token_id": None, "pad_token_id": 0}
    caches = [gpt2kit.DynamicCache(), transformers.DynamicCache()]
    results = []
    for model, cache in zip((ours, theirs), caches, strict=True):
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        turn = torch.tensor([[1, 2, 1]]).expand(len(ids), -1)
        for is_whole in (True, True, False):
            given = ids if is_whole else ids[:, cache.get_seq_length() :]
            out = model.generate(given, attention_mask=mask, past_key_values=cache, **options)
            ids = torch.cat((ids, out[:, given.shape[1] :], turn), dim=1)
            mask = torch.cat((mask, mask.new_ones(len(ids), ids.shape[1] - mask.shape[1])), dim=1)
        results.append(ids)
        assert cache.get_seq_length() == ids.shape[1] - 4  # all but the last token and the next turn
    assert torch.equal(*results)


@pytest.mark.parametrize("seed", range(6))
def test_embeddings_give_what_their_ids_give(seed) -> None:
    rng = random.Random(seed)
    theirs, ours = random_pair(seed, n_positions=40, n_layer=1, n_head=2, n_embd=16)
    inputs = random_batch(rng, ours.config.vocab_size, sides=["none", "left"])
    embeds = ours.get_input_embeddings()(inputs["input_ids"]).detach()
    given = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}
    options = {"max_new_tokens": 6, "eos_token_id": 1, "pad_token_id": 0, "repetition_penalty": 1.5}
    generated, expected = both(theirs, ours, given, options)
    assert torch.equal(generated, expected)
    generated, expected = both(
        theirs, ours, given | {"input_ids": inputs["input_ids"]}, options | {"repetition_penalty": 1.0}
    )
    assert torch.equal(generated, expected)


@pytest.mark.parametrize("name", ["max_length", "min_length"])
def test_lengths_count_the_padded_prompt(name) -> None:
    theirs, ours = random_pair(3, n_positions=40)
    ids = torch.tensor([[0, 0, 1, 2], [1, 2, 1, 2]])
    inputs = {"input_ids": ids, "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])}
    options = {name: 9, "eos_token_id": [2, 1], "pad_token_id": 0}
    assert torch.equal(*both(theirs, ours, inputs, options))


def test_without_an_input_generation_starts_from_bos() -> None:
    theirs, ours = random_pair(5, n_positions=40)
    assert torch.equal(*both(theirs, ours, {}, {"max_new_tokens": 5, "eos_token_id": None}))
    assert torch.equal(*both(theirs, ours, {}, {"bos_token_id": 1, "eos_token_id": None}))


def test_padding_is_told_by_its_token() -> None:
    theirs, ours = random_pair(6, n_positions=40)
    ids = torch.tensor([[0, 0, 1, 2], [1, 2, 1, 2]])
    options = {"max_new_tokens": 5, "eos_token_id": 3, "pad_token_id": 0}
    assert torch.equal(*both(theirs, ours, {"input_ids": ids}, options))
    # An end token may be part of a text, so it hides nothing.
    assert torch.equal(*both(theirs, ours, {"input_ids": ids}, options | {"eos_token_id": [3, 0]}))


class OnlyEven(transformers.LogitsProcessor):
    """Bans odd ids, and looks at the whole batch."""

    def __init__(self) -> None:
        self.shapes: list = []

    def __call__(self, input_ids, scores):
        self.shapes.append((tuple(input_ids.shape), tuple(scores.shape)))
        scores = scores.clone()
        scores[:, 1::2] = -float("inf")
        return scores


class StopRowsAtLength(transformers.StoppingCriteria):
    """Ends row i at its own length."""

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids.shape[1] >= torch.arange(len(input_ids)) + 6


@pytest.mark.parametrize("seed", range(4))
def test_processors_and_criteria_see_the_batch_that_transformers_shows(seed) -> None:
    rng = random.Random(seed)
    theirs, ours = random_pair(seed, n_positions=40, n_layer=1, n_head=2, n_embd=16, vocab_size=20)
    ids = torch.tensor([[rng.randrange(20) for _ in range(4)] for _ in range(3)])
    processors = [OnlyEven(), OnlyEven()]
    outputs = [
        model.generate(
            ids,
            max_new_tokens=12,
            eos_token_id=[19],
            pad_token_id=0,
            logits_processor=transformers.LogitsProcessorList([processor, transformers.TopKLogitsWarper(4)]),
            stopping_criteria=transformers.StoppingCriteriaList([StopRowsAtLength()]),
        )
        for model, processor in zip((ours, theirs), processors, strict=True)
    ]
    assert torch.equal(*outputs)
    assert processors[0].shapes == processors[1].shapes


def test_double_heads_generate() -> None:
    theirs = transformers.GPT2DoubleHeadsModel(
        transformers.GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=50, n_positions=30, eos_token_id=7)
    ).eval()
    config = gpt2kit.GPT2Config(
        n_layer=2, n_head=2, n_embd=16, vocab_size=50, n_positions=30, eos_token_id=7, bos_token_id=7
    )
    ours = gpt2kit.GPT2DoubleHeadsModel(config).eval()
    ours.load_state_dict(theirs.state_dict())
    inputs = {"input_ids": torch.tensor([[3, 4, 5]])}
    for engine in ("native", "torch"):
        options = {"max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": 7}
        assert torch.equal(*both(theirs, ours, inputs, options, engine=engine))


@pytest.mark.parametrize("seed", range(12))
def test_beams_and_their_outputs_are_those_of_transformers(seed) -> None:
    rng = random.Random(seed)
    theirs, ours = random_pair(seed, n_positions=40, n_layer=2, n_head=2, n_embd=16)
    inputs = random_batch(rng, ours.config.vocab_size, sides=["none", "left"])
    num_beams = rng.randint(2, 4)
    options = {
        "max_new_tokens": rng.randint(1, 8),
        "eos_token_id": rng.choice([None, 1, [1, 2]]),
        "pad_token_id": 0,
        "num_beams": num_beams,
        "num_return_sequences": rng.randint(1, num_beams),
        "length_penalty": rng.choice([0.0, 1.0, 2.0]),
        "early_stopping": rng.choice([True, False, "never"]),
        "return_dict_in_generate": True,
    }
    options |= {f"output_{name}": True for name in ("scores", "logits", "attentions", "hidden_states")}
    generated, expected = both(theirs, ours, inputs, options)
    assert list(generated.keys()) == list(expected.keys())
    assert torch.equal(generated.sequences, expected.sequences)
    assert close(generated.sequences_scores, expected.sequences_scores)
    assert torch.equal(generated.beam_indices, expected.beam_indices)
    assert len(generated.scores) == len(expected.scores)
    for step in range(len(expected.scores)):
        for name in ("scores", "logits"):
            assert generated[name][step].shape == expected[name][step].shape
        for name in ("attentions", "hidden_states"):
            shapes = [[tensor.shape for tensor in out[name][step]] for out in (generated, expected)]
            assert shapes[0] == shapes[1]
    scores = [
        model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
        for model, out in ((ours, generated), (theirs, expected))
    ]
    assert close(*scores)


STRATEGIES = {
    "guidance": {"guidance_scale": 1.7},
    "guidance from a negative prompt": {
        "guidance_scale": 1.7,
        "negative_prompt_ids": torch.tensor([[1, 2, 1]]),
    },
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "assistant": {},
    "allowed tokens": {"prefix_allowed_tokens_fn": lambda row, ids: [int(ids[-1]) % 3, (len(ids) * 2) % 3]},
    "biases": {"sequence_bias": {(1,): 2.0, (2, 1): -3.0}, "renormalize_logits": True},
    "suppressed": {"suppress_tokens": [1], "begin_suppress_tokens": [2]},
    "forced": {"forced_bos_token_id": 1, "forced_eos_token_id": 2},
    "no cache": {"use_cache": False},
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_way_of_choosing_tokens_is_reached(strategy, seed) -> None:
    sizes = {"n_positions": 40, "n_head": 2, "vocab_size": 30}
    theirs, ours = random_pair(seed, n_layer=2, n_embd=16, **sizes)
    assistants = random_pair(seed + 1, n_layer=1, n_embd=8, **sizes) if strategy == "assistant" else None
    results = []
    for index, model in enumerate((theirs, ours)):
        more = {} if assistants is None else {"assistant_model": assistants[index]}
        ids = torch.tensor([[3, 1, 4, 1]])
        options = STRATEGIES[strategy] | {"max_new_tokens": 10, "eos_token_id": None, "pad_token_id": 0}
        results.append(model.generate(ids, **options, **more))
    assert torch.equal(*results)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"return_dict_in_generate": True}], ids=str)
def test_an_encoder_is_attended_to(options) -> None:
    theirs, ours = random_pair(
        4, n_positions=40, n_layer=2, n_head=2, n_embd=16, vocab_size=30, add_cross_attention=True,
        reorder_and_upcast_attn=False,
    )  # fmt: skip
    torch.manual_seed(0)
    inputs = {
        "input_ids": torch.tensor([[0, 3, 1], [4, 1, 5]]),
        "attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]]),
        "encoder_hidden_states": torch.randn(2, 5, 16),
    }
    # In 5.23 beams repeat the encoder's states for each beam and not their mask, so there it stays out.
    if "num_beams" not in options:
        inputs["encoder_attention_mask"] = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    options = options | {"max_new_tokens": 8, "eos_token_id": None, "pad_token_id": 0}
    generated, expected = both(theirs, ours, inputs, options)
    if "return_dict_in_generate" in options:
        generated, expected = generated.sequences, expected.sequences
    assert torch.equal(generated, expected)
    other = inputs | {"encoder_hidden_states": -inputs["encoder_hidden_states"]}
    assert not torch.equal(
        generated, ours.generate(**other, **(options | {"return_dict_in_generate": False}))
    )
