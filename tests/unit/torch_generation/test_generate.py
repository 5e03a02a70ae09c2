"""generate() over tensors: padding, caches, seeds, streams and clear errors, without an oracle."""

import itertools
import warnings

import pytest
import torch

from gpt2kit import (
    DynamicCache,
    GenerationConfig,
    QuantizedCache,
    StaticCache,
    TextStreamer,
)

PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6, 5]]
LENGTH = {"max_new_tokens": 9, "pad_token_id": 0}


def padded(side: str) -> dict[str, torch.Tensor]:
    T = max(map(len, PROMPTS))
    ids, mask = torch.zeros(3, T, dtype=torch.long), torch.zeros(3, T, dtype=torch.long)
    for row, prompt in enumerate(PROMPTS):
        place = {
            "left": slice(T - len(prompt), T),
            "right": slice(0, len(prompt)),
            "both": slice((T - len(prompt)) // 2, (T - len(prompt)) // 2 + len(prompt)),
        }[side]
        ids[row, place] = torch.tensor(prompt)
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask}


def new_ids(model, inputs, **options) -> list[list[int]]:
    ids = model.generate(**inputs, **options)
    return ids[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
        {"do_sample": True, "temperature": 1.5, "seed": [1, 2, 3]},
        {"num_beams": 3},
    ],
    ids=["greedy", "penalties", "sampled", "beams"],
)
def test_padding_on_any_side_gives_what_a_row_gives_alone(model, engine, options) -> None:
    seeds = options.get("seed", [None] * 3)
    alone = []
    for prompt, seed in zip(PROMPTS, seeds, strict=True):
        own = options | ({"seed": seed} if seed is not None else {})
        alone += new_ids(
            model, {"input_ids": torch.tensor([prompt])}, engine=engine, eos_token_id=[], **LENGTH, **own
        )
    for side in ("left", "right", "both"):
        assert new_ids(model, padded(side), engine=engine, eos_token_id=[], **LENGTH, **options) == alone


def test_rows_that_end_early_are_padded(model) -> None:
    free = new_ids(model, padded("left"), eos_token_id=[], **LENGTH)
    end = free[0][2]
    ended = new_ids(model, padded("left"), eos_token_id=end, **LENGTH)
    for row, ids in zip(ended, free, strict=True):
        expected = ids[: ids.index(end) + 1] if end in ids else ids
        assert row[: len(expected)] == expected
        assert set(row[len(expected) :]) <= {0}
    assert ended[0][3:] == [0] * (len(ended[0]) - 3)
    by_default = model.generate(**padded("left"), max_new_tokens=9, eos_token_id=[end, 7])
    assert set(by_default[0, 8:].tolist()) <= {end}


@pytest.mark.parametrize("kind", ["dynamic", "static", "offloaded", "offloaded_static", "quantized"])
def test_cache_implementations_give_the_same_ids(model, kind) -> None:
    expected = new_ids(model, padded("left"), engine="torch", **LENGTH)
    options = {"cache_config": {"nbits": 8, "backend": "quanto"}} if kind == "quantized" else {}
    for beams in ({}, {"num_beams": 2}):
        expected = new_ids(model, padded("left"), engine="torch", **LENGTH, **beams)
        assert (
            new_ids(model, padded("left"), cache_implementation=kind, **LENGTH, **options, **beams)
            == expected
        )
    output = model.generate(
        **padded("left"),
        cache_implementation=kind,
        max_cache_len=30,
        return_dict_in_generate=True,
        **LENGTH,
        **options,
    )
    kinds = {"static": StaticCache, "offloaded_static": StaticCache, "quantized": QuantizedCache}
    assert type(output.past_key_values) is kinds.get(kind, DynamicCache)
    assert output.past_key_values.get_seq_length() == output.sequences.shape[1] - 1
    if kind == "static":
        assert output.past_key_values.max_cache_len == 30


@pytest.mark.parametrize(
    "make",
    [DynamicCache, QuantizedCache, lambda: StaticCache(None, 0)],
    ids=["dynamic", "quantized", "static"],
)
def test_a_given_cache_is_extended_in_place(model, make) -> None:
    cache = StaticCache(model.config, 20) if make not in (DynamicCache, QuantizedCache) else make()
    first = model.generate(**padded("left"), past_key_values=cache, **LENGTH)
    assert cache.get_seq_length() == first.shape[1] - 1
    mask = torch.cat((padded("left")["attention_mask"], torch.ones(3, 9 + 2, dtype=torch.long)), dim=1)
    longer = torch.cat((first, torch.tensor([[8, 9]] * 3)), dim=1)
    again = model.generate(longer, attention_mask=mask, past_key_values=cache, **LENGTH)
    assert torch.equal(again, model.generate(longer, attention_mask=mask, **LENGTH))
    assert cache.get_seq_length() == again.shape[1] - 1


def test_several_rows_a_prompt_repeat_the_rows_of_the_cache(model) -> None:
    cache = DynamicCache()
    model.generate(**padded("left"), past_key_values=cache, do_sample=True, num_return_sequences=2, **LENGTH)
    assert cache.batch_size == 6


def test_torch_manual_seed_repeats_a_run(model) -> None:
    runs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        runs.append(model.generate(**padded("left"), do_sample=True, temperature=3.0, **LENGTH).tolist())
    assert runs[0] == runs[1] != runs[2]
    torch.manual_seed(5)
    same = torch.tensor([[4, 2]] * 4)
    rows = model.generate(same, do_sample=True, temperature=3.0, **LENGTH).tolist()
    assert len({tuple(row) for row in rows}) > 1  # equal prompts do not get equal numbers
    seeded = [model.generate(same[:1], do_sample=True, seed=3, **LENGTH).tolist() for _ in range(2)]
    assert seeded[0] == seeded[1]


def test_priority_is_call_then_config_then_model(model) -> None:
    model.generation_config = GenerationConfig(max_new_tokens=2, eos_token_id=[], pad_token_id=0)
    ids = torch.tensor([[3]])
    assert model.generate(ids).shape[1] == 3
    assert model.generate(ids, GenerationConfig(max_new_tokens=3)).shape[1] == 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert model.generate(ids, GenerationConfig(max_new_tokens=3), max_new_tokens=4).shape[1] == 5
    del model.generation_config
    assert model.generate(ids, eos_token_id=None).shape[1] == 21
    assert model.generate(ids.expand(1, 1).repeat(1, 30), eos_token_id=None).shape[1] == 40  # n_positions


def test_none_in_the_call_switches_off(model) -> None:
    model.generation_config = GenerationConfig(eos_token_id=list(range(60)), max_new_tokens=4, top_k=1)
    ids = torch.tensor([[3]])
    assert model.generate(ids).shape[1] == 2
    assert model.generate(ids, eos_token_id=None).shape[1] == 5
    free = {
        tuple(model.generate(ids, do_sample=True, top_k=None, temperature=9.0, seed=s)[0].tolist())
        for s in range(9)
    }
    assert len(free) > 1


def test_a_model_in_training_mode_generates_with_dropout(model) -> None:
    model.train()
    torch.manual_seed(0)
    runs = {
        tuple(model.generate(torch.tensor([[3, 1]]), eos_token_id=None, **LENGTH)[0].tolist())
        for _ in range(5)
    }
    assert len(runs) > 1
    assert model.training


def test_what_is_not_asked_for_is_not_returned(model) -> None:
    ids = torch.tensor([[3, 1]])
    output = model.generate(ids, return_dict_in_generate=True, use_cache=False, **LENGTH)
    assert output.keys() == ["sequences"]
    assert isinstance(model.generate(ids, output_scores=True, **LENGTH), torch.Tensor)
    native = model.generate(ids, return_dict_in_generate=True, output_scores=True, engine="native", **LENGTH)
    assert native.keys() == ["sequences", "scores"]


def test_scores_of_rows_that_have_ended_say_that_padding_was_certain(model) -> None:
    free = new_ids(model, padded("left"), eos_token_id=[], **LENGTH)
    options = {"eos_token_id": free[1][0], "return_dict_in_generate": True, "output_scores": True}
    output = model.generate(**padded("left"), **LENGTH, **options)
    for normalize in (False, True):
        scores = model.compute_transition_scores(output.sequences, output.scores, normalize_logits=normalize)
        assert scores[1, 0] != 0
        assert (scores[1, 1:] == 0).all()


class Recorder:
    """A streamer of Transformers' kind."""

    def __init__(self) -> None:
        self.calls: list = []

    def put(self, value) -> None:
        self.calls.append(value.tolist())

    def end(self) -> None:
        self.calls.append("end")


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 2}], ids=str)
@pytest.mark.parametrize("engine", ["native", "torch"])
def test_a_streamer_gets_prompts_steps_and_the_end(model, engine, options) -> None:
    streamer = Recorder()
    inputs = (
        {"input_ids": torch.tensor([PROMPTS[0]])} if "prompt_lookup_num_tokens" in options else padded("left")
    )
    end = new_ids(model, inputs, eos_token_id=[], **LENGTH)[0][3]
    result = model.generate(**inputs, streamer=streamer, engine=engine, eos_token_id=end, **LENGTH, **options)
    prompts, *steps, last = streamer.calls
    assert prompts == inputs["input_ids"].tolist()
    assert last == "end"
    assert [list(row) for row in zip(*steps, strict=True)] == result[:, len(prompts[0]) :].tolist()


def test_a_streamer_is_not_kept_waiting(model) -> None:
    seen = []

    class Watch(Recorder):
        def put(self, value) -> None:
            super().put(value)
            seen.append(len(lengths))

    lengths: list[int] = []

    def count(input_ids, scores) -> bool:
        lengths.append(input_ids.shape[1])
        return False

    model.generate(**padded("left"), streamer=Watch(), stopping_criteria=[count], eos_token_id=[], **LENGTH)
    assert seen == list(range(0, 1)) + list(range(0, 9))  # each step before the criteria see it


def test_a_criterion_ends_rows_one_by_one(model) -> None:
    calls = []

    def stop(input_ids, scores):
        calls.append(input_ids.clone())
        return torch.arange(3) < input_ids.shape[1] - 6

    free = new_ids(model, padded("left"), eos_token_id=[], **LENGTH)
    rows = new_ids(model, padded("left"), eos_token_id=[], stopping_criteria=[stop], **LENGTH)
    for index, row in enumerate(rows):
        assert row == free[index][: 2 + index] + [0] * (2 - index)
    assert [call.shape for call in calls] == [(3, 6), (3, 7), (3, 8), (3, 9)]
    assert calls[-1][0].tolist()[-2:] == [0, 0]


def test_a_processor_of_a_batch_may_mix_rows(model) -> None:
    def same_for_all(input_ids, scores):
        return scores.mean(dim=0, keepdim=True).expand_as(scores)

    rows = new_ids(model, padded("left"), eos_token_id=[], logits_processor=[same_for_all], **LENGTH)
    assert rows[0] == rows[1] == rows[2]


def test_prefix_allowed_tokens_see_the_padded_row(model) -> None:
    seen = []

    def allowed(batch_id, input_ids):
        seen.append((batch_id, input_ids.tolist()))
        return [10 + batch_id]

    rows = new_ids(model, padded("left"), eos_token_id=[], prefix_allowed_tokens_fn=allowed, max_new_tokens=2)
    assert rows == [[10, 10], [11, 11], [12, 12]]
    assert (1, [0, 0, 0, 0, 9]) in seen
    assert (2, [0, 0, 2, 6, 5, 12]) in seen


def test_token_types_are_added_to_every_token(model) -> None:
    inputs = padded("left")
    plain = new_ids(model, inputs, eos_token_id=[], **LENGTH)
    types = torch.full_like(inputs["input_ids"], 8)
    typed = new_ids(model, {**inputs, "token_type_ids": types}, eos_token_id=[], **LENGTH)
    assert typed != plain
    ids = torch.tensor([PROMPTS[2]])
    with torch.no_grad():
        for _ in range(9):
            logits = model(ids, token_type_ids=torch.full_like(ids, 8)).logits
            ids = torch.cat((ids, logits[:, -1].argmax(dim=-1, keepdim=True)), dim=1)
    assert typed[2] == ids[0, 3:].tolist()


ERRORS = {
    "not used by the model": {"max_new_token": 3},
    "does not take labels": {"labels": torch.ones(1, 2)},
    "passed alongside input_ids": {"input_ids": torch.tensor([[1]])},
    "must be 2D": {"attention_mask": torch.ones(1, 1, 2, 2)},
    r"attention_mask has the shape \(1, 5\)": {"attention_mask": torch.ones(1, 5)},
    "hides every new token of row 0": {"attention_mask": torch.zeros(1, 2)},
    "Input length of input_ids is 2, but `max_length`": {"max_length": 2},
    "Passing a tuple of `past_key_values`": {"past_key_values": ((torch.ones(1), torch.ones(1)),)},
    "Passing both `cache_implementation`": {
        "past_key_values": DynamicCache(),
        "cache_implementation": "static",
    },
    "cache_implementation='paged' is not available": {"cache_implementation": "paged"},
    "cache_config is for": {"cache_config": {"nbits": 4}},
    "cache_config is .*'bits'": {"cache_implementation": "quantized", "cache_config": {"bits": 4}},
    "nbits is 3": {"cache_implementation": "quantized", "cache_config": {"nbits": 3}},
    "synced_gpus=True": {"synced_gpus": True},
    "custom_generate": {"custom_generate": "someone/code"},
    "position_ids must count": {"position_ids": torch.tensor([[4, 5]])},
    "token_type_ids has the shape": {"token_type_ids": torch.ones(1, 3, dtype=torch.long)},
    "n_positions is 40": {"max_new_tokens": 39},
    "negative_prompt_attention_mask is given without": {"negative_prompt_attention_mask": torch.ones(1, 2)},
    "negative_prompt_ids is torch.float32": {"negative_prompt_ids": torch.ones(1, 2), "guidance_scale": 2.0},
    "returned shape": {"logits_processor": [lambda ids, scores: scores[:, :3]]},
    "returned NoneType": {"logits_processor": [lambda ids, scores: None]},
    "returned torch.int64": {"stopping_criteria": [lambda ids, scores: 1]},
    "tokenizer is needed": {"stop_strings": "a"},
    "num_return_sequences=2 needs": {"num_return_sequences": 2},
    "temperature must be": {"do_sample": True, "temperature": float("nan")},
}


@pytest.mark.parametrize(("message", "options"), ERRORS.items(), ids=itertools.count())
def test_bad_arguments_give_one_clear_error(model, message, options) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate(torch.tensor([[3, 1]]), **options)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.tensor([3, 1]), r"\(B, T\) are needed"),
        (torch.tensor([[0.5]]), "torch.float32"),
        (torch.zeros(1, 0, dtype=torch.long), "empty"),
        ([[1, 2]], "is a list"),
        (torch.tensor([[60]]), "holds token id 60"),
        (torch.tensor([[-1]]), "holds token id -1"),
    ],
)
def test_bad_inputs_give_one_clear_error(model, inputs, message) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate(inputs)


def test_a_cache_that_does_not_fit_is_refused(model) -> None:
    cache = DynamicCache()
    ids = torch.tensor([[3, 1, 4]])
    model.generate(ids, past_key_values=cache, max_new_tokens=3)
    with pytest.raises(ValueError, match="holds 5 already; append at least one"):
        model.generate(ids, past_key_values=cache)
    with pytest.raises(ValueError, match="past_key_values holds 1 rows; input_ids has 2"):
        model.generate(ids.expand(2, -1), past_key_values=cache)
    with pytest.raises(ValueError, match="inputs_embeds and past_key_values"):
        model.generate(inputs_embeds=torch.zeros(1, 6, 24), past_key_values=cache)
    with pytest.raises(ValueError, match=r"\(B, T, 24\) is needed"):
        model.generate(inputs_embeds=torch.zeros(1, 6, 23))
    with pytest.raises(ValueError, match="about the same tokens"):
        model.generate(ids, inputs_embeds=torch.zeros(1, 6, 24))


def test_without_a_bos_token_there_must_be_a_prompt(model) -> None:
    model.config.bos_token_id = model.generation_config.bos_token_id = None
    with pytest.raises(ValueError, match="`bos_token_id` has to be defined"):
        model.generate()


def test_text_streamers_take_batches(model, capsys) -> None:
    from fakes import FakeTokenizer

    ids = torch.tensor([[1, 2], [3, 4]])
    allowed = {0: [5, 6, 0], 1: [7, 8, 9]}
    model.generate(
        ids,
        max_new_tokens=3,
        eos_token_id=0,
        prefix_allowed_tokens_fn=lambda row, tokens: [allowed[row][len(tokens) - 2]],
        streamer=TextStreamer(FakeTokenizer(), skip_special_tokens=True),
    )
    assert capsys.readouterr().out == "abef\ncdghi\n"


def test_head_masks_act_on_every_step(model) -> None:
    head_mask = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    options = {"return_dict_in_generate": True, "output_logits": True, "eos_token_id": []}
    output = model.generate(**padded("left"), head_mask=head_mask, **LENGTH, **options)
    ids = output.sequences[2:, 2:]
    with torch.no_grad():
        expected = model(ids, head_mask=head_mask).logits[0, 2:-1]
        unmasked = model(ids).logits[0, 2:-1]
    logits = torch.stack([step[2] for step in output.logits])
    assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert (logits - unmasked).abs().max() > 0.01


def test_a_streamer_is_ended_when_generation_fails(model) -> None:
    def fail(input_ids, scores):
        raise RuntimeError("no more")

    streamer = Recorder()
    with pytest.raises(RuntimeError, match="no more"):
        model.generate(torch.tensor([[3, 1]]), streamer=streamer, logits_processor=[fail])
    assert streamer.calls == [[[3, 1]], "end"]
