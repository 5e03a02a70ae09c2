import numpy as np
import pytest

from fakes import FakeEngine
from gpt2kit.errors import GenerationError
from gpt2kit.generation import generate
from gpt2kit.generation.processors.guidance import Guidance
from gpt2kit.generation.processors.penalties import mix_guidance

PROMPTS = [[3, 1, 4], [2], [7, 7]]
NEGATIVE = [[9, 8], [5], [6, 1, 2, 3]]
OPTIONS = {"guidance_scale": 1.7, "max_new_tokens": 7, "eos_token_id": []}


def expected_row(prompt, negative, seed_engine, num_new=7):
    new = []
    for _ in range(num_new):
        scores = mix_guidance(seed_engine.logits([*prompt, *new]), seed_engine.logits([*negative, *new]), 1.7)
        new.append(int(np.argmax(scores)))
    return new


def test_each_row_is_led_away_from_its_negative_prompt():
    engine = FakeEngine()
    rows = generate(engine, PROMPTS, negative_prompt_ids=NEGATIVE, **OPTIONS)
    assert [row.ids for row in rows] == [
        expected_row(prompt, negative, engine) for prompt, negative in zip(PROMPTS, NEGATIVE, strict=True)
    ]
    assert engine.num_alive == 0


def test_one_negative_prompt_serves_all_and_the_last_token_is_the_default():
    engine = FakeEngine()
    rows = generate(engine, PROMPTS, negative_prompt_ids=[[9]], **OPTIONS)
    assert [row.ids for row in rows] == [expected_row(prompt, [9], engine) for prompt in PROMPTS]
    rows = generate(engine, PROMPTS, **OPTIONS)
    assert [row.ids for row in rows] == [expected_row(prompt, prompt[-1:], engine) for prompt in PROMPTS]


def test_guided_rows_are_the_same_alone_and_in_a_batch():
    sampled = {**OPTIONS, "do_sample": True, "num_return_sequences": 3, "seed": 4}
    engine = FakeEngine()
    together = generate(engine, PROMPTS, negative_prompt_ids=NEGATIVE, max_rows=4, **sampled)
    alone = [
        row
        for prompt, negative in zip(PROMPTS, NEGATIVE, strict=True)
        for row in generate(engine, [prompt], negative_prompt_ids=[negative], **sampled)
    ]
    assert [row.ids for row in together] == [row.ids for row in alone]
    assert engine.num_alive == 0


def test_unconditional_rows_run_with_the_others_a_token_at_a_time():
    engine = FakeEngine()
    generate(engine, PROMPTS, negative_prompt_ids=NEGATIVE, **OPTIONS)
    assert engine.batch_sizes == [3] * 14  # seven passes for each of the two sides


class MixedEngine(FakeEngine):
    """Says by itself what FakeEngine says under guidance: the prompt is the first three ids."""

    def logits(self, ids):
        return mix_guidance(super().logits(ids), super().logits([*NEGATIVE[0], *ids[3:]]), 1.7)


@pytest.mark.parametrize(
    "strategy",
    [
        {"num_beams": 3, "num_return_sequences": 3},
        {"num_beams": 2, "do_sample": True, "num_return_sequences": 2, "seed": 1},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7},
        {"num_beams": 3, "early_stopping": True, "eos_token_id": [4, 5, 6, 7, 8]},
        {"prompt_lookup_num_tokens": 2},
    ],
    ids=["beams", "sampled beams", "groups", "early", "prompt lookup"],
)
def test_every_strategy_is_guided(strategy):
    guided = FakeEngine()
    options = {**OPTIONS, **strategy, "renormalize_logits": True}  # beams add the scores up as they are
    rows = generate(guided, [PROMPTS[0]], negative_prompt_ids=NEGATIVE[:1], **options)
    plain = generate(MixedEngine(), [PROMPTS[0]], **{**options, "guidance_scale": 1.0})
    assert [row.ids for row in rows] == [row.ids for row in plain]
    assert guided.num_alive == 0


@pytest.mark.parametrize("seed", range(20))
def test_rows_may_be_forked_reordered_and_dropped(seed):
    rng = np.random.default_rng(seed)
    engine = FakeEngine()
    guidance = Guidance(engine, 2.0, NEGATIVE)
    rows = [(0, []), (1, []), (2, [])]
    for _ in range(12):
        if rng.random() < 0.5:
            guidance.advance(rows)
        for prompt_index, ids in rows:
            scores = rng.normal(size=50).astype(np.float32)
            expected = mix_guidance(scores, engine.logits([*NEGATIVE[prompt_index], *ids]), 2.0)
            np.testing.assert_array_equal(guidance.mix(prompt_index, ids, scores), expected)
        chosen = rng.integers(0, len(rows), rng.integers(1, 6))
        rows = [(rows[i][0], [*rows[i][1], int(rng.integers(50))]) for i in chosen]
    guidance.free()
    assert engine.num_alive == 0


@pytest.mark.parametrize(
    ("prompts", "negative", "options", "message"),
    [
        (PROMPTS, [[1], [2]], OPTIONS, "2 rows for 3 prompts"),
        (PROMPTS, [[50]], OPTIONS, "negative prompt 0 holds token id 50"),
        (PROMPTS, [[1]], {}, "only act with a guidance_scale other than 1"),
        ([[1]], [[1] * 60], OPTIONS, "negative prompt has 60 tokens and 7 new ones .* n_positions is 64"),
    ],
)
def test_negative_prompts_that_cannot_be_used_are_refused(prompts, negative, options, message):
    with pytest.raises(GenerationError, match=message):
        generate(FakeEngine(), prompts, negative_prompt_ids=negative, **options)
