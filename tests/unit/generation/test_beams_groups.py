import random
from collections import Counter

import pytest

from all_sequences import log_p, tiny_engine
from fakes import FakeEngine
from gpt2kit.generation import generate


def diverse_beams(engine, prompt, *, groups, size, penalty, length, eos, length_penalty, early_stopping):
    """Diverse beam search step by step, in the plainest form: (score, new ids), best first."""
    live = [[(0.0, [])] for _ in range(groups)]
    finished = [[] for _ in range(groups)]
    for step in range(1, length + 1):
        chosen = Counter()
        for group in range(groups):
            if not live[group]:
                continue
            candidates = []
            for total, ids in live[group]:
                scores = log_p(engine, prompt + ids)
                for token in range(len(scores)):
                    candidates.append((total + scores[token] - penalty * chosen[token], [*ids, token]))
            candidates.sort(reverse=True, key=lambda item: item[0])
            candidates = candidates[: max(2, 1 + len(eos)) * size]
            is_ended = [ids[-1] in eos or step == length for _, ids in candidates]
            ending = [item for item, ends in list(zip(candidates, is_ended, strict=True))[:size] if ends]
            finished[group] += [(total / step**length_penalty, ids) for total, ids in ending]
            finished[group] = sorted(finished[group], reverse=True)[:size]
            live[group] = [item for item, ends in zip(candidates, is_ended, strict=True) if not ends][:size]
            chosen.update([ids[-1] for _, ids in candidates if ids[-1] not in eos][:size])
            if live[group] and len(finished[group]) == size:
                hoped = length if early_stopping == "never" and length_penalty > 0 else step
                can_improve = live[group][0][0] / hoped**length_penalty > finished[group][-1][0]
                if early_stopping is True or not can_improve:
                    live[group] = []
    return sorted((item for group in finished for item in group), reverse=True)


@pytest.mark.parametrize("seed", range(60))
def test_every_group_is_penalised_for_the_tokens_of_those_before(seed):
    rng = random.Random(seed)
    vocab_size = rng.randint(5, 9)
    engine = tiny_engine(vocab_size)
    prompt = [rng.randrange(vocab_size) for _ in range(rng.randint(1, 4))]
    groups, size = rng.randint(2, 4), rng.randint(1, 2)
    plain = {
        "length_penalty": rng.choice([0.0, 1.0, 1.5, -1.0]),
        "early_stopping": rng.choice([True, False, "never"]),
    }
    penalty = rng.choice([0.1, 0.7, 3.0, 50.0])
    eos = rng.sample(range(vocab_size), rng.randint(0, 2))
    length = rng.randint(1, 6)
    rows = generate(
        engine, [prompt], num_beams=groups * size, num_beam_groups=groups, diversity_penalty=penalty,
        num_return_sequences=groups * size, max_new_tokens=length, eos_token_id=eos, **plain,
    )  # fmt: skip
    expected = diverse_beams(
        engine, prompt, groups=groups, size=size, penalty=penalty, length=length, eos=eos, **plain
    )
    assert [row.score for row in rows] == pytest.approx([score for score, _ in expected], rel=1e-4)
    assert sorted(row.ids for row in rows) == sorted(ids for _, ids in expected)


def test_a_large_penalty_makes_every_group_begin_differently():
    rows = generate(FakeEngine(), [[1, 2]], num_beams=5, num_beam_groups=5, diversity_penalty=1000.0,
                    num_return_sequences=5, max_new_tokens=6, eos_token_id=[])  # fmt: skip
    assert len({row.ids[0] for row in rows}) == 5
    assert {beam for row in rows for beam in row.beam_indices} == set(range(5))


def test_the_first_group_is_a_search_of_its_own():
    options = {"max_new_tokens": 8, "eos_token_id": [0, 1]}
    (alone, *_) = generate(FakeEngine(), [[4]], num_beams=3, **options)
    rows = generate(FakeEngine(), [[4]], num_beams=6, num_beam_groups=2, diversity_penalty=2.0,
                    num_return_sequences=6, **options)  # fmt: skip
    assert (alone.ids, alone.beam_indices) in [(row.ids, row.beam_indices) for row in rows]
