import time

import numpy as np
import pytest

from fakes import FakeEngine, ScriptedEngine
from gpt2kit.config import GenerationConfig, GPT2Config
from gpt2kit.errors import GenerationError
from gpt2kit.generation import Custom, coin, generate, is_standard, sample
from gpt2kit.generation.options import merge, resolve
from gpt2kit.generation.protocol import NewTokens

SAMPLING = {"do_sample": True, "top_k": 0, "eos_token_id": []}


def ids_of(rows):
    return [row.ids for row in rows]


def random_prompts(seed, count=6):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 50, rng.integers(1, 20)).tolist() for _ in range(count)]


def test_greedy_follows_the_highest_logit():
    engine = FakeEngine()
    (row,) = generate(engine, [[3, 1]], max_new_tokens=5, eos_token_id=[])
    ids = [3, 1]
    for _ in range(5):
        ids.append(int(np.argmax(engine.logits(ids))))
    assert row.ids == ids[2:]
    assert row.finish_reason == "length"


def test_sampling_is_the_coin_of_seed_row_and_position():
    engine = FakeEngine()
    rows = generate(engine, [[3, 1, 4]], seed=9, num_return_sequences=2, max_new_tokens=6, **SAMPLING)
    for row in rows:
        ids = [3, 1, 4]
        for _ in range(6):
            ids.append(sample(engine.logits(ids), coin(9, row.row, len(ids))))
        assert row.ids == ids[3:]
    assert rows[0].ids != rows[1].ids


@pytest.mark.parametrize("max_rows", [1, 2, 3, 7, 64])
def test_a_prompt_gives_the_same_ids_alone_and_in_any_batch(max_rows):
    prompts = random_prompts(0)
    options = dict(SAMPLING, num_return_sequences=3, max_new_tokens=12, seed=5)
    together = ids_of(generate(FakeEngine(), prompts, max_rows=max_rows, **options))
    alone = [ids for prompt in prompts for ids in ids_of(generate(FakeEngine(), [prompt], **options))]
    assert together == alone


def test_rows_come_prompt_by_prompt_with_their_seeds():
    rows = generate(FakeEngine(), random_prompts(1, 3), seed=[4, 5, 6], num_return_sequences=2, **SAMPLING)
    assert [(r.prompt_index, r.row, r.seed) for r in rows] == [
        (0, 0, 4), (0, 1, 4), (1, 0, 5), (1, 1, 5), (2, 0, 6), (2, 1, 6),
    ]  # fmt: skip


def test_a_fresh_seed_is_reported_and_repeats_the_text():
    (row,) = generate(FakeEngine(), [[1]], max_new_tokens=8, **SAMPLING)
    (again,) = generate(FakeEngine(), [[1]], max_new_tokens=8, seed=row.seed, **SAMPLING)
    assert again.ids == row.ids


@pytest.mark.parametrize("max_rows", [1, 2, 64])
def test_every_sequence_is_freed_and_the_batch_shrinks(max_rows):
    engine = FakeEngine()
    generate(engine, random_prompts(2), num_return_sequences=2, seed=1, max_rows=max_rows, do_sample=True)
    assert engine.num_alive == 0
    assert max(engine.batch_sizes) <= max(max_rows, 2)  # the rows of one prompt run together


def test_sequences_are_freed_when_a_callback_raises():
    engine = FakeEngine()

    def fail(prompt_index, row, token_id):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(engine, random_prompts(3), on_token=fail)
    assert engine.num_alive == 0


def test_an_end_token_stops_the_row_and_is_returned():
    (row,) = generate(ScriptedEngine([9, 9, 5, 7, 8]), [[1, 1]], eos_token_id=[7, 8], max_new_tokens=9)
    assert (row.ids, row.finish_reason) == ([5, 7], "stop")


def test_the_model_s_own_end_token_is_used_when_nobody_names_one():
    config = GPT2Config(vocab_size=50, n_positions=64, n_embd=8, n_layer=1, n_head=1, eos_token_id=[6])
    (row,) = generate(ScriptedEngine([0, 6], config=config), [[1]])
    assert (row.ids, row.finish_reason) == ([6], "stop")


def test_min_new_tokens_holds_the_end_token_back():
    script = [7] * 20
    (row,) = generate(ScriptedEngine(script), [[1]], eos_token_id=7, min_new_tokens=3, max_new_tokens=9)
    assert 7 not in row.ids[:3] and row.ids[3] == 7
    (row,) = generate(ScriptedEngine(script), [[1, 1]], eos_token_id=7, min_length=4, max_new_tokens=9)
    assert 7 not in row.ids[:2] and row.ids[2] == 7


def test_an_empty_prompt_starts_from_bos():
    config = GenerationConfig(bos_token_id=4)
    (row,) = generate(FakeEngine(), [[]], config, max_new_tokens=4, eos_token_id=[])
    (same,) = generate(FakeEngine(), [[4]], max_new_tokens=4, eos_token_id=[])
    assert row.ids == same.ids


def test_an_empty_prompt_without_bos_is_refused():
    config = GPT2Config(vocab_size=50, n_positions=64, n_embd=8, n_layer=1, n_head=1, bos_token_id=None)
    with pytest.raises(GenerationError, match="prompt 0 is empty and there is no bos_token_id"):
        generate(FakeEngine(config=config), [[]])


def test_no_prompts_give_no_rows():
    assert generate(FakeEngine(), []) == []


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[1], [1, 50]], {}, "prompt 1 holds token id 50"),
        ([[-1]], {}, "prompt 0 holds token id -1"),
        ([[1] * 60], {"max_new_tokens": 5}, "n_positions is 64"),
        ([[1]], {"max_rows": 0}, "max_rows must be at least 1"),
        ([[1]], {"stop_strings": "x"}, "pass tokenizer="),
        ([[1]], {"on_text": print}, "pass tokenizer="),
        ([[1]], {"seed": [1, 2]}, "seed has 2 entries for 1 prompts"),
        ([[1]], {"num_beam": 2}, "did you mean num_beams"),
    ],
)
def test_mistakes_are_refused_before_any_work(prompts, options, message):
    engine = FakeEngine()
    with pytest.raises(GenerationError, match=message):
        generate(engine, prompts, **options)
    assert engine.batch_sizes == []


def test_the_callback_sees_every_token_and_can_end_its_row():
    seen = []

    def watch(prompt_index, row, token_id):
        seen.append((prompt_index, token_id))
        return prompt_index == 0 and len([s for s in seen if s[0] == 0]) == 2

    rows = generate(FakeEngine(), [[1], [2]], max_new_tokens=5, eos_token_id=[], on_token=watch)
    assert [row.finish_reason for row in rows] == ["cancelled", "length"]
    assert [len(row.ids) for row in rows] == [2, 5]
    assert [token for index, token in seen if index == 1] == rows[1].ids


def test_max_time_ends_all_rows_after_the_present_token():
    class Slow(FakeEngine):
        def forward(self, work, **kwargs):
            time.sleep(0.02)
            return super().forward(work, **kwargs)

    rows = generate(Slow(), [[1], [2]], max_new_tokens=40, eos_token_id=[], max_time=0.05)
    assert [row.finish_reason for row in rows] == ["time", "time"]
    assert all(1 <= len(row.ids) < 20 for row in rows)


def test_custom_processors_and_criteria_see_the_whole_sequence():
    def only_even(token_ids, scores):
        scores[1::2] = -np.inf
        return scores

    calls = []

    def criterion(token_ids, scores):
        calls.append((list(token_ids), scores[1]))
        return len(token_ids) == 5

    (row,) = generate(
        FakeEngine(), [[1, 3]], logits_processor=[only_even], stopping_criteria=[criterion], eos_token_id=[]
    )
    assert all(token_id % 2 == 0 for token_id in row.ids)
    assert (len(row.ids), row.finish_reason) == (3, "stop")
    assert calls[-1][0] == [1, 3, *row.ids] and calls[-1][1] == -np.inf


class LoopEngine(FakeEngine):
    """An engine with its own loop, which records what it was asked."""

    def can_guess_with(self, assistant):
        return False

    def generate_native(self, prompts, options, seeds, *, on_token, max_rows, guesses=None):
        self.asked = (prompts, options, seeds, max_rows)
        rows = []
        for index, _ in enumerate(prompts):
            ids = []
            for token_id in [5, 6, 7]:
                ids.append(token_id)
                if on_token is not None and on_token(index, 0, token_id):
                    break
            rows.append(NewTokens(ids))
        return rows


def test_standard_options_run_the_engine_s_own_loop():
    engine = LoopEngine()
    rows = generate(engine, [[1], [2]], max_new_tokens=3, seed=[8, 9], max_rows=5)
    assert ids_of(rows) == [[5, 6, 7]] * 2
    prompts, options, seeds, max_rows = engine.asked
    assert (prompts, options.max_new_tokens, seeds, max_rows) == ([[1], [2]], (3, 3), [8, 9], 5)
    assert engine.batch_sizes == []


def test_callbacks_reach_the_engine_s_own_loop():
    (row,) = generate(LoopEngine(), [[1]], max_new_tokens=3, on_token=lambda p, r, t: t == 6)
    assert (row.ids, row.finish_reason) == ([5, 6], "cancelled")


def test_custom_code_that_sees_scores_needs_the_python_loop():
    engine = LoopEngine()
    options = resolve(merge({}), engine.config, [1])
    assert is_standard(engine, options, Custom(), ())
    assert not is_standard(engine, options, Custom((lambda i, s: s,)), ())
    assert not is_standard(engine, options, Custom(prefix_allowed_tokens_fn=lambda p, i: [1]), ())
    assert not is_standard(engine, options, Custom(), [lambda i, s: False])
    assert not is_standard(FakeEngine(), options, Custom(), ())
    other = resolve(merge({"suppress_tokens": [1]}), engine.config, [1])
    assert not is_standard(engine, other, Custom(), ())
    generate(engine, [[1]], logits_processor=[lambda i, s: s])
    assert engine.batch_sizes
