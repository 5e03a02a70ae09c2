import itertools
import random

import pytest

from all_sequences import all_sequences, contains, tiny_engine
from fakes import FakeEngine
from gpt2kit import Constraint, DisjunctiveConstraint, PhrasalConstraint
from gpt2kit.errors import GenerationError
from gpt2kit.generation import generate
from gpt2kit.generation.beams.coverage import in_rounds


def random_words(rng, vocab_size):
    """Words to force, some with alternatives, as force_words_ids and as lists of phrases."""

    def phrase():
        return [rng.randrange(vocab_size) for _ in range(rng.randint(1, 2))]

    words = []
    for _ in range(rng.randint(1, 2)):
        first, second = phrase(), phrase()
        is_choice = rng.random() < 0.4 and not (contains(first, second[:1]) or contains(second, first[:1]))
        words.append([first, second] if is_choice else first)
    return words, [word if isinstance(word[0], list) else [word] for word in words]


@pytest.mark.parametrize("seed", range(60))
def test_enough_beams_find_the_best_sequence_that_holds_every_word(seed):
    rng = random.Random(seed)
    vocab_size, length = rng.randint(3, 5), rng.randint(2, 4)
    engine = tiny_engine(vocab_size)
    prompt = [rng.randrange(vocab_size) for _ in range(3)]
    eos = rng.sample(range(vocab_size), rng.randint(0, 1))
    penalty = rng.choice([0.0, 1.0])
    sequences = all_sequences(engine, prompt, length, eos, penalty)
    expected = []
    while not expected:
        words, phrases = random_words(rng, vocab_size)
        expected = [
            (score, ids)
            for score, ids in sequences
            if all(any(contains(ids, phrase) for phrase in choice) for choice in phrases)
        ]
    count = min(3, len(expected))
    rows = generate(
        engine, [prompt], num_beams=vocab_size**length, num_return_sequences=count, max_new_tokens=length,
        eos_token_id=eos, length_penalty=penalty, early_stopping="never", force_words_ids=words,
    )  # fmt: skip
    assert [row.ids for row in rows] == [ids for _, ids in expected[:count]]
    assert [row.score for row in rows] == pytest.approx([score for score, _ in expected[:count]], rel=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_few_beams_meet_the_constraints_with_unlikely_words_in_every_prompt_of_a_batch(seed):
    rng = random.Random(seed)
    prompts = [[rng.randrange(50) for _ in range(rng.randint(1, 9))] for _ in range(3)]
    words = [[rng.randrange(1, 50) for _ in range(rng.randint(1, 3))] for _ in range(2)]
    num_beams = rng.randint(3, 6)
    rows = generate(
        FakeEngine(), prompts, num_beams=num_beams, num_return_sequences=2, max_new_tokens=16,
        force_words_ids=words, early_stopping=rng.choice([True, False, "never"]),
    )  # fmt: skip
    for row in rows:
        assert all(contains(row.ids, word) for word in words)
        assert 0 not in row.ids[:-1]


def test_constraints_that_cannot_be_met_give_the_best_there_is_and_a_warning():
    with pytest.warns(UserWarning, match="rows of prompt 0, 1 do not meet the constraints") as caught:
        rows = generate(FakeEngine(), [[1], [2]], num_beams=3, max_new_tokens=2, force_words_ids=[[5, 6, 7]])
    assert caught[0].filename == __file__
    assert [len(row.ids) for row in rows] == [2, 2]


def test_an_end_token_may_be_part_of_what_is_forced():
    rows = generate(FakeEngine(), [[1]], num_beams=3, max_new_tokens=9, force_words_ids=[[5, 0]])
    assert rows[0].ids[-2:] == [5, 0]


def test_a_stop_before_the_words_is_no_result():
    rows = generate(FakeEngine(), [[1]], num_beams=4, num_return_sequences=2, max_new_tokens=12, eos_token_id=[],
                    force_words_ids=[[5, 6]], stopping_criteria=[lambda ids, scores: ids[-1] % 2 == 0])  # fmt: skip
    assert all(row.ids[-2:] == [5, 6] for row in rows)


class InOrder(Constraint):
    """These tokens must occur in this order, with anything between them."""

    def __init__(self, token_ids):
        self.token_ids = token_ids
        self.num_met = 0
        self.completed = False

    def advance(self):
        return None if self.completed else self.token_ids[self.num_met]

    def does_advance(self, token_id):
        return token_id == self.advance()

    def update(self, token_id):
        stepped = self.does_advance(token_id)
        self.num_met += stepped
        self.completed = self.num_met == len(self.token_ids)
        return stepped, self.completed, False

    def reset(self):
        self.num_met = 0
        self.completed = False

    def remaining(self):
        return len(self.token_ids) - self.num_met

    def copy(self, stateful=False):
        twin = type(self)(self.token_ids)
        if stateful:
            twin.num_met, twin.completed = self.num_met, self.completed
        return twin


class Adjacent(InOrder):
    """The same next to each other; a wrong token loses what there was."""

    def update(self, token_id):
        if not self.does_advance(token_id):
            self.reset()
            return False, False, True
        return super().update(token_id)


def test_a_constraint_of_one_s_own_is_met():
    constraint = InOrder([9, 3, 9])
    rows = generate(FakeEngine(), [[1], [4, 4]], num_beams=4, num_return_sequences=2, max_new_tokens=12,
                    constraints=[constraint, PhrasalConstraint([8, 7])])  # fmt: skip
    for row in rows:
        assert contains(row.ids, [8, 7])
        rest = iter(row.ids)
        assert all(token in rest for token in [9, 3, 9])
    assert constraint.num_met == 0  # the caller's object is not touched


def test_a_token_that_breaks_a_phrase_may_begin_it_again():
    engine = tiny_engine(3)
    for constraint in (Adjacent([1, 2]), PhrasalConstraint([1, 2])):
        rows = generate(
            engine, [[0]], num_beams=81, num_return_sequences=15, max_new_tokens=4, eos_token_id=[],
            constraints=[constraint],
        )  # fmt: skip
        expected = [ids for _, ids in all_sequences(engine, [0], 4, [], 1.0) if contains(ids, [1, 2])]
        assert [row.ids for row in rows] == expected[:15]


class TestPhrases:
    """PhrasalConstraint and DisjunctiveConstraint by themselves."""

    @pytest.mark.parametrize("seed", range(30))
    def test_a_constraint_is_met_when_a_phrase_first_occurs(self, seed):
        rng = random.Random(seed)
        phrases = [[rng.randrange(3) for _ in range(rng.randint(1, 4))] for _ in range(3)]
        phrases = [p for p in phrases if not any(q != p and q == p[: len(q)] for q in phrases)]
        phrases = [list(p) for p in dict.fromkeys(map(tuple, phrases))]
        constraint = DisjunctiveConstraint(phrases) if len(phrases) > 1 else PhrasalConstraint(phrases[0])
        ids = []
        while not constraint.completed and len(ids) < 60:
            token = rng.randrange(3)
            before = constraint.remaining()
            advances = constraint.does_advance(token)
            stepped, completed, reset = constraint.update(token)
            ids.append(token)
            assert completed == constraint.completed == any(contains(ids, phrase) for phrase in phrases)
            assert advances == (constraint.remaining() < before)
            assert (constraint.remaining() == 0) == completed
            assert stepped != reset
        assert constraint.completed
        fresh = constraint.copy()
        assert not fresh.completed and constraint.copy(stateful=True).completed
        constraint.reset()
        assert not constraint.completed and constraint.remaining() == max(map(len, phrases))
        constraint.test()

    def test_alternatives_go_on_together_until_they_part(self):
        constraint = DisjunctiveConstraint([[1, 2, 3], [1, 2, 4, 5], [1, 2, 5]])
        assert constraint.advance() == [1]
        assert constraint.update(1) == (True, False, False)
        assert constraint.update(2) == (True, False, False)
        assert (constraint.advance(), constraint.current_seq, constraint.remaining()) == (
            [3, 4, 5],
            [1, 2],
            2,
        )
        assert constraint.update(4) == (True, False, False)
        assert constraint.update(5) == (True, True, False)
        assert (constraint.advance(), constraint.remaining()) == (None, 0)

    def test_a_wrong_token_resets(self):
        constraint = PhrasalConstraint([1, 2, 3])
        constraint.update(1)
        assert constraint.update(5) == (False, False, True)
        assert (constraint.remaining(), constraint.advance()) == (3, 1)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: PhrasalConstraint([]), "`token_ids` has to be a non-empty list"),
            (lambda: PhrasalConstraint(5), "`token_ids` has to be a non-empty list"),
            (lambda: PhrasalConstraint([1, -1]), "has to be a list of positive integers"),
            (lambda: PhrasalConstraint([1.0]), "has to be a list of positive integers"),
            (lambda: DisjunctiveConstraint([]), "`nested_token_ids` has to be a non-empty list"),
            (lambda: DisjunctiveConstraint([1, 2]), "`nested_token_ids` has to be a non-empty list"),
            (lambda: DisjunctiveConstraint([[1, 2], []]), "`nested_token_ids` has to be a non-empty list"),
            (
                lambda: DisjunctiveConstraint([[1, 2], [1, 2, 3]]),
                "can't be a complete subset of another list",
            ),
            (lambda: DisjunctiveConstraint([[1, 2], [1, 2]]), "can't be a complete subset of another list"),
            (lambda: PhrasalConstraint([1]).update("1"), "`token_id` has to be an `int`"),
        ],
    )
    def test_mistakes_are_refused(self, make, message):
        with pytest.raises(GenerationError, match=message):
            make()


def broken(**methods):
    """An instance of a class like InOrder in which some methods are wrong."""
    return type("Broken", (InOrder,), methods)([1, 2])


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (broken(advance=lambda self: None), "Broken is not met and advance"),
        (broken(does_advance=lambda self, token: False), r"does_advance\(1\) must be True"),
        (broken(update=lambda self, token: (False, False, True)), r"update\(1\) must step"),
        (broken(update=lambda self, token: (True, False, False)), "is not met after 10000 tokens"),
        (broken(remaining=lambda self: 1), "Broken is met but remaining"),
        (PhrasalConstraint([3, 50]), "a constraint needs token id 50"),
    ],
)
def test_a_constraint_that_does_not_work_is_refused_before_any_work(constraint, message):
    engine = FakeEngine()
    with pytest.raises(GenerationError, match=message):
        generate(engine, [[1]], num_beams=2, constraints=[constraint])
    assert engine.batch_sizes == []


def test_rounds_take_the_best_of_each_bank_in_turn():
    items = [(2, 0.5), (0, 9.0), (1, 3.0), (2, 0.7), (0, 8.0), (0, 7.0)]
    ordered = in_rounds(items, lambda item: item[0], lambda item: item[1])
    assert ordered == [(2, 0.7), (1, 3.0), (0, 9.0), (2, 0.5), (0, 8.0), (0, 7.0)]
    assert all(a in ordered for a in items) and len(list(itertools.chain(ordered))) == 6
