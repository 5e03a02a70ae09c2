import itertools
import random
import time

import numpy as np
import pytest

from all_sequences import all_sequences, log_p, tiny_engine
from fakes import FakeEngine, FakeSequence, FakeTokenizer, ScriptedEngine
from gpt2kit.config import GPT2Config
from gpt2kit.errors import GenerationError
from gpt2kit.generation import generate
from gpt2kit.generation.beams.candidates import best

KINDS = {
    "search": {"num_beams": 4, "num_return_sequences": 3},
    "sampling": {"num_beams": 3, "num_return_sequences": 2, "do_sample": True, "temperature": 2.0, "seed": 8},
    "guidance": {"num_beams": 3, "num_return_sequences": 2, "guidance_scale": 1.5},
    "groups": {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 1.5, "num_return_sequences": 4},
    "constraints": {"num_beams": 4, "num_return_sequences": 2, "force_words_ids": [[7, 9], [[3], [11, 12]]]},
}


def random_prompts(seed, count=5, vocab_size=50):
    rng = random.Random(seed)
    return [[rng.randrange(vocab_size) for _ in range(rng.randint(1, 12))] for _ in range(count)]


def seen(rows):
    return [(row.prompt_index, row.row, row.ids, row.score, row.beam_indices) for row in rows]


@pytest.mark.parametrize("seed", range(40))
def test_enough_beams_find_the_best_of_all_sequences(seed):
    rng = random.Random(seed)
    vocab_size, length = rng.randint(3, 5), rng.randint(1, 4)
    engine = tiny_engine(vocab_size)
    prompt = random_prompts(seed, 1, vocab_size)[0]
    eos = rng.sample(range(vocab_size), rng.randint(0, 2))
    penalty = rng.choice([0.0, 1.0, 2.0, -0.5])
    expected = all_sequences(engine, prompt, length, eos, penalty)
    num_beams = max(2, vocab_size**length)
    rows = generate(
        engine,
        [prompt],
        num_beams=num_beams,
        num_return_sequences=min(5, len(expected)),
        max_new_tokens=length,
        eos_token_id=eos,
        length_penalty=penalty,
        early_stopping="never",
    )
    assert [row.ids for row in rows] == [ids for _, ids in expected[: len(rows)]]
    assert [row.score for row in rows] == pytest.approx(
        [score for score, _ in expected[: len(rows)]], rel=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_scores_and_beam_indices_say_how_a_row_came_about(kind, early_stopping):
    engine = FakeEngine()
    options = KINDS[kind] | {"early_stopping": early_stopping, "length_penalty": 0.6, "max_new_tokens": 9}
    rows = generate(
        engine,
        random_prompts(1),
        eos_token_id=[4, 5],
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )
    for row in rows:
        taken = [
            scores[beam, token]
            for scores, beam, token in zip(row.steps.scores, row.beam_indices, row.ids, strict=False)
        ]
        assert row.score == pytest.approx(sum(map(float, taken)) / len(row.ids) ** 0.6, rel=1e-5)
        assert all(scores.shape == (options["num_beams"], 50) for scores in row.steps.scores)
    for prompt_rows in itertools.groupby(rows, lambda row: row.prompt_index):
        scores = [row.score for row in prompt_rows[1]]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_rows", [1, 9, 64])
def test_a_prompt_gives_the_same_rows_alone_and_in_any_batch(kind, max_rows):
    options = KINDS[kind] | {"max_new_tokens": 8, "eos_token_id": [0, 1]}
    prompts = random_prompts(2)
    together = generate(FakeEngine(), prompts, max_rows=max_rows, **options)
    alone = [row for prompt in prompts for row in generate(FakeEngine(), [prompt], **options)]
    assert [item[2:] for item in seen(together)] == [item[2:] for item in seen(alone)]
    assert [item[:2] for item in seen(together)] == [
        (prompt, row) for prompt in range(5) for row in range(options["num_return_sequences"])
    ]


@pytest.mark.parametrize("max_rows", [1, 12, 64])
def test_the_beams_of_all_prompts_run_in_one_pass_and_their_number_is_bounded(max_rows):
    engine = FakeEngine()
    generate(engine, random_prompts(3, 6), num_beams=4, max_new_tokens=5, eos_token_id=[], max_rows=max_rows)
    assert max(engine.batch_sizes) == max(4, min(24, max_rows))
    assert engine.num_alive == 0


def test_a_beam_with_one_successor_is_not_copied(monkeypatch):
    copies = []
    fork = FakeSequence.fork
    monkeypatch.setattr(FakeSequence, "fork", lambda self: copies.append(self.length) or fork(self))
    # Every beam's best token is far ahead, so after the first step each has one successor.
    generate(ScriptedEngine([9] * 30), [[1, 2]], num_beams=2, num_return_sequences=1, max_new_tokens=1)
    assert copies == []
    engine = FakeEngine()
    (row,) = generate(engine, [[1, 2, 3]], num_beams=3, max_new_tokens=6, eos_token_id=[], output_scores=True,
                      return_dict_in_generate=True)  # fmt: skip
    parents = _parents(row.steps.scores, 3)
    assert len(copies) == sum(3 - len(set(step)) for step in parents)


def _parents(step_scores, num_beams):
    """The beams that live on, and of which beam, for a search without end tokens."""
    totals = np.array([0.0, -np.inf, -np.inf])
    parents = []
    for scores in step_scores[:-1]:
        joint = (scores.astype(np.float64) + totals[:, None]).ravel()
        chosen = np.argsort(-joint, kind="stable")[:num_beams]
        totals = joint[chosen]
        parents.append((chosen // scores.shape[1]).tolist())
    return parents


class _FailingEngine(FakeEngine):
    """Fails at the n-th forward pass or copy."""

    countdown: int = 0

    def new_sequence(self):
        return _FailingSequence(self)

    def tick(self):
        self.countdown -= 1
        if self.countdown == 0:
            raise MemoryError("no more")

    def forward(self, work, *, logits="last", **others):
        self.tick()
        return super().forward(work, logits=logits)


class _FailingSequence(FakeSequence):
    def fork(self):
        self._engine.tick()
        return _FailingSequence(self._engine, self.ids)


@pytest.mark.parametrize("kind", KINDS)
def test_every_sequence_is_freed_whatever_fails(kind):
    options = KINDS[kind] | {"max_new_tokens": 4, "eos_token_id": [0]}
    failures = 0
    for countdown in range(1, 40):
        engine = _FailingEngine()
        engine.countdown = countdown
        try:
            generate(engine, random_prompts(4, 3), **options)
        except MemoryError:
            failures += 1
        assert engine.num_alive == 0
    assert failures > 10


@pytest.mark.parametrize("where", ["on_token", "logits_processor", "stopping_criteria"])
def test_every_sequence_is_freed_when_the_caller_s_code_fails(where):
    def fail(*args):
        if next(calls) > 6:
            raise KeyboardInterrupt
        return args[1] if where == "logits_processor" else False

    for keep in ({}, {"output_scores": True, "return_dict_in_generate": True}):
        calls = itertools.count()
        engine = FakeEngine()
        with pytest.raises(KeyboardInterrupt):
            generate(
                engine,
                random_prompts(5),
                num_beams=3,
                **{where: fail if where == "on_token" else [fail]},
                **keep,
            )
        assert engine.num_alive == 0


def test_sequences_that_are_kept_hold_everything_but_the_last_token():
    from gpt2kit.generation.loop import generate_merged
    from gpt2kit.generation.options import merge

    engine = FakeEngine()
    prompts = random_prompts(6)
    merged = merge(
        {"num_beams": 4, "num_return_sequences": 3, "max_new_tokens": 7, "eos_token_id": [0, 1, 2]}
    )
    rows = generate_merged(engine, prompts, merged, keep_sequences=True)
    assert engine.num_alive == len(rows) == 15
    for row in rows:
        assert row.sequence.ids == prompts[row.prompt_index] + row.ids[:-1]
        row.sequence.free()


def test_ties_go_to_the_lowest_beam_and_token():
    totals = np.array([[1.0, 3.0, 3.0, -np.inf], [3.0, 2.0, -np.inf, 0.0]], dtype=np.float32)
    assert [(c.beam, c.token_id) for c in best(totals, 4)] == [(0, 1), (0, 2), (1, 0), (1, 1)]
    assert len(best(totals, 50)) == 6


class TestStreaming:
    """What is told as the search goes on."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_tokens_that_are_told_are_the_rows(self, kind):
        told: dict[tuple[int, int], list[int]] = {}

        def on_token(prompt_index, row, token_id):
            told.setdefault((prompt_index, row), []).append(token_id)

        options = KINDS[kind] | {"max_new_tokens": 10, "eos_token_id": [0, 1]}
        plain = generate(FakeEngine(), random_prompts(7), **options)
        streamed = generate(FakeEngine(), random_prompts(7), on_token=on_token, **options)
        assert seen(streamed) == seen(plain)
        assert told == {(row.prompt_index, row.row): row.ids for row in plain}

    def test_what_all_beams_share_is_told_before_the_search_ends(self):
        engine = ScriptedEngine([9, 9, 5, 6, 7, 8] + [9] * 20)
        passes = []
        generate(
            engine,
            [[1, 2]],
            num_beams=2,
            max_new_tokens=8,
            eos_token_id=[],
            on_token=lambda prompt, row, token: passes.append(len(engine.batch_sizes)) and None,
        )
        assert len(passes) == 8
        assert passes[:6] == [2, 3, 4, 5, 6, 7]

    def test_the_text_that_is_told_is_the_row_s_text(self):
        tokenizer = FakeTokenizer()
        config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=8, n_layer=1, n_head=1)
        pieces: dict[tuple[int, int], str] = {}

        def on_text(prompt_index, row, piece):
            pieces[prompt_index, row] = pieces.get((prompt_index, row), "") + piece

        rows = generate(
            FakeEngine(config=config),
            random_prompts(8, 3, len(tokenizer)),
            num_beams=3,
            num_return_sequences=3,
            max_new_tokens=12,
            eos_token_id=[0],
            tokenizer=tokenizer,
            on_text=on_text,
        )
        assert pieces == {(row.prompt_index, row.row): row.text for row in rows}
        assert [row.text for row in rows] == [
            tokenizer.decode(row.ids, skip_special_tokens=True) for row in rows
        ]

    def test_a_row_that_is_cancelled_keeps_what_it_was_told_and_the_others_go_on(self):
        options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 6, "eos_token_id": []}
        plain = generate(FakeEngine(), [[1, 2]], **options)
        rows = generate(FakeEngine(), [[1, 2]], on_token=lambda prompt, row, token: row == 0, **options)
        assert (rows[0].ids, rows[0].finish_reason, rows[0].score) == (plain[0].ids[:1], "cancelled", None)
        assert (rows[1].ids, rows[1].finish_reason) == (plain[1].ids, "length")

    def test_a_search_whose_rows_are_all_cancelled_ends(self):
        engine = ScriptedEngine([9] * 40)
        rows = generate(engine, [[1]], num_beams=2, max_new_tokens=30, eos_token_id=[],
                        on_token=lambda *_: True)  # fmt: skip
        assert (rows[0].ids, rows[0].finish_reason) == ([9], "cancelled")
        assert len(engine.batch_sizes) < 5 and engine.num_alive == 0


class TestEnds:
    """What ends a beam."""

    def test_a_stop_string_ends_a_beam_whatever_its_tokens_are(self):
        tokenizer = FakeTokenizer()
        config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=8, n_layer=1, n_head=1)
        options = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 12, "eos_token_id": []}
        stops = ["ab", "e", "A", "O", ". ", "b", "m", "x", "N"]
        for trim in (True, False):
            rows = generate(
                FakeEngine(config=config), random_prompts(9, 4, len(tokenizer)), stop_strings=stops,
                tokenizer=tokenizer, trim_stop_strings=trim, **options,
            )  # fmt: skip
            stopped = [row for row in rows if row.stop_string is not None]
            assert len(stopped) > 4
            for row in rows:
                text = tokenizer.decode(row.ids, skip_special_tokens=True)
                before = tokenizer.decode(row.ids[:-1], skip_special_tokens=True)
                whole = not any(stop in before for stop in stops)
                assert whole and any(stop in text for stop in stops) == (row.stop_string is not None)
                assert row.finish_reason == ("stop" if row.stop_string else "length")
                assert row.text == (text.split(row.stop_string)[0] if trim and row.stop_string else text)

    def test_a_criterion_sees_every_candidate_and_ends_beams(self):
        lengths = []

        def criterion(ids, scores):
            lengths.append(len(ids))
            return ids[-1] % 3 == 0

        rows = generate(FakeEngine(), [[1, 2, 4]], num_beams=3, num_return_sequences=3, max_new_tokens=20,
                        eos_token_id=[], stopping_criteria=[criterion])  # fmt: skip
        assert all(row.ids[-1] % 3 == 0 and row.finish_reason == "stop" for row in rows)
        assert all(token % 3 for row in rows for token in row.ids[:-1])
        assert lengths[:6] == [4] * 6 and lengths[6] == 5

    def test_max_time_ends_the_search_with_what_there_is(self):
        class SlowEngine(FakeEngine):
            def forward(self, work, **others):
                time.sleep(0.02)
                return super().forward(work)

        rows = generate(SlowEngine(), random_prompts(10, 2), num_beams=3, num_return_sequences=3,
                        max_new_tokens=40, eos_token_id=[], max_time=0.05)  # fmt: skip
        assert all(1 <= len(row.ids) < 10 and row.finish_reason == "time" for row in rows)

    def test_the_length_is_each_prompt_s_own(self):
        prompts = [[1] * 3, [2] * 7, [3] * 9]
        rows = generate(FakeEngine(), prompts, num_beams=2, max_length=10, eos_token_id=[])
        assert [len(row.ids) for row in rows] == [7, 3, 1]


class TestFewSequences:
    """Processors may leave fewer sequences than beams."""

    def test_rows_that_do_not_exist_are_empty(self):
        rows = generate(FakeEngine(), [[1]], num_beams=4, num_return_sequences=4, max_new_tokens=3, eos_token_id=0,
                        prefix_allowed_tokens_fn=lambda prompt, ids: [[5, 6], [0]][min(len(ids), 2) - 1])  # fmt: skip
        assert sorted(row.ids for row in rows[:2]) == [[5, 0], [6, 0]]
        assert [(row.ids, row.score, row.beam_indices) for row in rows[2:]] == [([], -1e9, [])] * 2

    def test_a_search_without_any_sequence_is_refused(self):
        engine = FakeEngine()
        with pytest.raises(GenerationError, match="no token is left to choose"):
            generate(engine, [[1]], num_beams=2, logits_processor=[lambda ids, s: np.full_like(s, -np.inf)])
        assert engine.num_alive == 0

    def test_broken_scores_are_refused(self):
        with pytest.raises(GenerationError, match="the scores hold nan"):
            generate(
                FakeEngine(), [[1]], num_beams=2, logits_processor=[lambda ids, s: s * np.float32(np.nan)]
            )


def test_processors_see_each_beam_s_own_ids_and_log_probabilities():
    engine = FakeEngine()
    calls = []

    def watch(ids, scores):
        calls.append(ids)
        assert scores == pytest.approx(log_p(engine, ids), abs=1e-5)
        return scores

    generate(engine, [[1, 2]], num_beams=3, max_new_tokens=3, eos_token_id=[], logits_processor=[watch])
    assert [len(ids) for ids in calls] == [2, 3, 3, 3, 4, 4, 4]
    assert len({tuple(ids) for ids in calls}) == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2, "num_return_sequences": 3}, r"`num_return_sequences` \(3\) has to be smaller or equal"),
        ({"num_beams": 2, "num_beam_groups": 3, "diversity_penalty": 1.0}, r"`num_beam_groups` \(3\) has to be sm"),
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, r"should be divisible by"),
        ({"num_beams": 4, "num_beam_groups": 2}, "`diversity_penalty` should be greater than `0.0`"),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.0}, "your groups will be identical"),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": -1.0}, "diversity_penalty must be at least 0"),
        (KINDS["groups"] | {"do_sample": True}, "cannot be used in sampling mode"),
        ({"force_words_ids": [[1]]}, "`num_beams` is set to `None`, which is incompatible"),
        ({"force_words_ids": [[1]], "num_beams": 2, "do_sample": True}, "`do_sample` is set to `True`"),
        (KINDS["groups"] | {"force_words_ids": [[1]]}, "`num_beam_groups` is set to `3`"),
        ({"force_words_ids": [[50]], "num_beams": 2}, "a constraint needs token id 50"),
        ({"force_words_ids": [], "num_beams": 2}, "force_words_ids must be a non-empty list"),
        ({"force_words_ids": [[]], "num_beams": 2}, "force_words_ids"),
        ({"constraints": [[1, 2]], "num_beams": 2}, "has to be a list of gpt2kit.Constraint objects"),
        ({"num_beams": 2, "early_stopping": "always"}, "early_stopping must be"),
        ({"num_beams": 2, "length_penalty": float("nan")}, "length_penalty must be"),
        ({"num_beams": 2, "length_penalty": 500.0}, "length_penalty=500.0 is too far from 0"),
        ({"num_beams": 2, "length_penalty": -500.0}, "length_penalty=-500.0 is too far from 0"),
        ({"num_beams": 2, "low_memory": True}, "`low_memory=True` is not supported"),
        ({"num_beams": 0}, "num_beams must be at least 1"),
        ({"num_beams": 2.5}, "num_beams must be"),
        ({"num_beams": True}, "num_beams must be"),
    ],
)  # fmt: skip
def test_contradictions_are_refused_before_any_work(options, message):
    engine = FakeEngine()
    with pytest.raises(GenerationError, match=message):
        generate(engine, [[1]], **options)
    assert engine.batch_sizes == []


@pytest.mark.parametrize(
    "options", [{"length_penalty": 2.0}, {"early_stopping": True}, {"diversity_penalty": 1.0}]
)
def test_options_of_beams_without_beams_are_warned_of(options):
    with pytest.warns(UserWarning, match=f"{next(iter(options))}=.* has no effect"):
        generate(FakeEngine(), [[1]], max_new_tokens=1, **options)
