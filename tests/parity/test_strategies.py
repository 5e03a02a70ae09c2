"""Contrastive search, DoLa, guessing ahead and sliding windows, against plain forms of their definitions."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2_vocabulary import write_gpt2_vocabulary
from gpt2kit import AutoTokenizer, builtin
from gpt2kit.engine import NativeEngine
from gpt2kit.engine.torch import TorchEngine
from gpt2kit.errors import EngineError, GenerationError
from gpt2kit.generation import generate
from gpt2kit.model import GPT2LMHeadModel
from random_models import random_model


def engines(seed: int, **overrides: Any) -> list[Any]:
    """Return a native and a torch engine of one random model."""
    import torch

    torch.set_num_threads(1)
    oracle, config, weights = random_model(seed, **({"n_positions": 64, "vocab_size": 40} | overrides))
    model = GPT2LMHeadModel(config).eval()
    model.load_state_dict(oracle.state_dict(), strict=False)
    return [NativeEngine(config, weights, threads=1), TorchEngine(model)]


def random_prompts(rng: random.Random, vocab_size: int, longest: int = 12) -> list[list[int]]:
    return [
        [rng.randrange(vocab_size) for _ in range(rng.randint(1, longest))] for _ in range(rng.randint(1, 4))
    ]


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


class TestContrastive:
    @pytest.mark.parametrize("seed", range(6))
    def test_every_token_has_the_highest_value(self, seed: int) -> None:
        rng = random.Random(seed)
        for engine in engines(seed):
            options = {"penalty_alpha": rng.choice([0.2, 0.6, 1.0]), "top_k": rng.choice([2, 4, 100])}
            options["low_memory"] = rng.random() < 0.5
            prompts = random_prompts(rng, 40)
            rows = generate(engine, prompts, max_new_tokens=7, eos_token_id=rng.randrange(40), **options)
            for prompt, row in zip(prompts, rows, strict=True):
                ids = list(prompt)
                for token_id in row.ids:
                    values = self.values(engine, ids, options["penalty_alpha"], options["top_k"])
                    assert values[token_id] >= max(values.values()) - 1e-5
                    ids.append(token_id)

    @staticmethod
    def values(engine: Any, ids: list[int], alpha: float, top_k: int) -> dict[int, float]:
        """Return the value of every candidate, each from a forward pass over the whole text."""
        output = engine.forward([(engine.new_sequence(), ids)], hidden=True)[0]
        p = softmax(output.logits)
        values = {}
        for token_id in np.argsort(-p, kind="stable")[:top_k].tolist():
            extended = engine.forward([(engine.new_sequence(), [*ids, token_id])], hidden=True)[0].hidden
            unit = extended.astype(np.float64) / np.linalg.norm(extended.astype(np.float64), axis=1)[:, None]
            values[token_id] = (1 - alpha) * p[token_id] - alpha * (unit[:-1] @ unit[-1]).max()
        return values

    def test_memory_is_given_back_when_a_callback_raises(self) -> None:
        from fakes import FakeEngine

        engine = FakeEngine()
        with pytest.raises(ZeroDivisionError):
            generate(engine, [[1, 2], [3]], penalty_alpha=0.5, on_token=lambda *_: 1 // 0)
        assert engine.num_alive == 0


class TestDola:
    @pytest.mark.parametrize("seed", range(8))
    def test_scores_follow_the_paper(self, seed: int) -> None:
        rng = random.Random(seed)
        n_layer = rng.choice([1, 2, 3, 4, 6])
        for engine in engines(seed, n_layer=n_layer):
            layers = rng.choice(["low", "high", [0], [rng.randrange(n_layer), 0]])
            do_sample = rng.random() < 0.5
            prompts = random_prompts(rng, 40)
            rows = generate(
                engine,
                prompts,
                max_new_tokens=6,
                dola_layers=layers,
                do_sample=do_sample,
                seed=3,
                return_dict_in_generate=True,
                output_scores=True,
                repetition_penalty=1.3 if seed % 2 else None,
            )
            for prompt, row in zip(prompts, rows, strict=True):
                assert row.steps is not None
                for step, scores in enumerate(row.steps.scores):
                    if seed % 2 or do_sample:
                        assert (scores > -np.inf).any()
                        continue
                    wanted = self.scores(engine, prompt + row.ids[:step], layers)
                    kept = scores > -np.inf
                    np.testing.assert_allclose(scores[kept], wanted[kept], rtol=1e-3, atol=1e-3)
                    assert wanted[row.ids[step]] >= wanted.max() - 1e-3

    @staticmethod
    def scores(engine: Any, ids: list[int], layers: Any) -> np.ndarray:
        n_layer, tied = engine.config.n_layer, engine.config.tie_word_embeddings
        if layers == "high":
            layers = range(n_layer // 2, n_layer, 2)
        elif layers == "low":
            first = (2 if n_layer > 2 else n_layer - 1) if tied else 0
            layers = [i for i in range(0, n_layer) if i >= first and (i - first) % 2 == 0]
            layers = [i for i in layers if i < n_layer // 2] or [first]
        states = engine.forward([(engine.new_sequence(), ids)], hidden_states=True)[0].hidden_states[:, -1]
        distributions = [softmax(engine.head(np.ascontiguousarray(state[None]))[0]) for state in states]
        last = distributions[-1]

        def divergence(p: np.ndarray, q: np.ndarray) -> float:
            middle = (p + q) / 2
            return float((p * np.log(p / middle) + q * np.log(q / middle)).sum() / 2)

        early = max((distributions[layer] for layer in layers), key=lambda q: divergence(last, q))
        return np.where(last >= 0.1 * last.max(), np.log(last / early), -np.inf)


class TestGuessing:
    @pytest.mark.parametrize("seed", range(12))
    def test_guesses_change_no_token(self, seed: int) -> None:
        rng = random.Random(seed)
        vocab_size = rng.choice([3, 8, 40])
        small = engines(seed + 100, vocab_size=vocab_size, n_positions=rng.choice([9, 64]))
        for engine, assistant in zip(engines(seed, vocab_size=vocab_size, n_layer=3), small, strict=True):
            prompts = random_prompts(rng, vocab_size, longest=30)
            options: dict[str, Any] = {"max_new_tokens": rng.randint(1, 30), "seed": rng.getrandbits(60)}
            if rng.random() < 0.6:
                options |= {"do_sample": True, "top_k": rng.choice([0, 3]), "num_return_sequences": 2}
            if rng.random() < 0.4:
                options |= {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3 if vocab_size > 3 else 0}
            if rng.random() < 0.3:
                options |= {"guidance_scale": 1.5}
            plain = [row.ids for row in generate(engine, prompts, **options)]
            for guessing in (
                {"prompt_lookup_num_tokens": rng.randint(1, 6), "max_matching_ngram_size": rng.randint(1, 3)},
                {"assistant_early_exit": rng.randint(1, 2)},
                {"assistant": assistant, "num_assistant_tokens": rng.randint(1, 8)},
                {"assistant": engine, "num_assistant_tokens_schedule": "heuristic"},
            ):
                got = generate(engine, prompts, max_rows=rng.choice([1, 4, 64]), **options, **guessing)
                assert [row.ids for row in got] == plain, guessing

    def test_a_perfect_guess_saves_passes(self) -> None:
        engine, _ = engines(3, eos_token_id=None)
        calls = []

        class Counting:
            config, new_sequence, head = engine.config, engine.new_sequence, engine.head

            def forward(self, work: Any, **options: Any) -> Any:
                calls.append(sum(len(ids) for _, ids in work))
                return engine.forward(work, **options)

        generate(
            Counting(), [[1, 2, 3]], max_new_tokens=6, assistant=engine, assistant_confidence_threshold=0.0
        )
        assert calls == [3, 5]

    def test_other_tokenizers_are_translated(self, tmp_path: Path) -> None:
        ours = AutoTokenizer.from_pretrained(builtin.path())
        theirs = AutoTokenizer.from_pretrained(write_gpt2_vocabulary(tmp_path))
        prompts = [ours.encode("In the beginning"), ours.encode("é")]
        engine, _ = engines(5, vocab_size=len(ours))
        assistant, _ = engines(6, vocab_size=len(theirs))
        for options in ({}, {"do_sample": True, "seed": 1}):
            plain = [row.ids for row in generate(engine, prompts, max_new_tokens=20, **options)]
            got = generate(
                engine,
                prompts,
                max_new_tokens=20,
                assistant=assistant,
                tokenizer=ours,
                assistant_tokenizer=theirs,
                **options,
            )
            assert [row.ids for row in got] == plain

    def test_an_ensemble_chooses_from_the_mixture(self) -> None:
        engine, _ = engines(7, eos_token_id=None)
        assistant, _ = engines(8, eos_token_id=None)
        ids = generate(
            engine,
            [[1, 2, 3]],
            max_new_tokens=8,
            assistant=assistant,
            assistant_ensemble_weight=0.3,
            assistant_confidence_threshold=0.0,
            num_assistant_tokens=20,
        )[0].ids
        text = [1, 2, 3]
        follows_mixture = 0
        for token_id in ids:
            p, q = (
                softmax(each.forward([(each.new_sequence(), text)])[0].logits) for each in (engine, assistant)
            )
            mixture = 0.3 * p + 0.7 * q
            assert mixture[token_id] >= mixture.max() - 1e-6 or p[token_id] >= p.max() - 1e-6
            follows_mixture += mixture[token_id] >= mixture.max() - 1e-6
            text.append(token_id)
        assert follows_mixture >= 4

    def test_guessing_stops_when_it_does_not_pay(self) -> None:
        from gpt2kit.generation.strategies.speculation import Payoff

        now = 0.0
        payoff = Payoff(lambda: now)
        guessed = []
        for _ in range(56):
            guessed.append(payoff.start())
            now += 3.0 if guessed[-1] else 1.0
            payoff.end(2 if guessed[-1] else 1)
        assert guessed == [True] * 6 + [False] * 50
        assert payoff.start() is True

    def test_what_does_not_fit_is_refused(self) -> None:
        engine, _ = engines(1, n_layer=2)
        other, _ = engines(2, vocab_size=41)
        for options, message in (
            ({"assistant": other}, "vocab_size is 41"),
            ({"assistant": other, "assistant_tokenizer": object()}, "without tokenizer"),
            ({"assistant_early_exit": 2}, "below the model's n_layer"),
            ({"assistant": engine, "penalty_alpha": 0.5}, "leave one out"),
            ({"dola_layers": "low", "penalty_alpha": 0.5}, "different ways of decoding"),
            ({"prompt_lookup_num_tokens": 2, "assistant_early_exit": 1}, "different ways of decoding"),
            ({"penalty_alpha": 0.5, "do_sample": True}, "not sampled"),
            ({"penalty_alpha": 0.5, "top_k": 1}, "at least 2"),
            ({"penalty_alpha": 0.5, "long_generation": "slide"}, "long_generation"),
            ({"guidance_scale": 2.0, "long_generation": "slide"}, "long_generation"),
            ({"dola_layers": [7]}, "dola_layers"),
            (
                {"prompt_lookup_num_tokens": 2, "return_dict_in_generate": True, "output_attentions": True},
                "output_attentions",
            ),
        ):
            with pytest.raises(GenerationError, match=message):
                generate(engine, [[1]], **options)
        with pytest.raises(EngineError, match="blocks 1 to 2"):
            engine.first_layers(3)


class TestSlidingWindow:
    @pytest.mark.parametrize("seed", range(8))
    def test_each_token_follows_from_its_window_alone(self, seed: int) -> None:
        rng = random.Random(seed)
        n_positions = rng.choice([2, 3, 8, 13])
        options: dict[str, Any] = {"max_new_tokens": 30, "long_generation": "slide", "eos_token_id": []}
        if rng.random() < 0.5:
            options |= {"do_sample": True, "seed": 9, "num_return_sequences": 2}
        prompts = random_prompts(rng, 40, longest=40)
        texts = []
        for engine in engines(seed, n_positions=n_positions):
            rows = generate(engine, prompts, **options)
            texts.append([row.ids for row in rows])
            for row in rows if not options.get("do_sample") else []:
                ids = list(prompts[row.prompt_index])
                for token_id in row.ids:
                    start = 0
                    while len(ids) - start > n_positions:
                        start += max(1, n_positions // 2)
                    logits = engine.forward([(engine.new_sequence(), ids[start:])])[0].logits
                    assert logits[token_id] >= logits.max() - 1e-4
                    ids.append(token_id)
            guessed = generate(engine, prompts, **options, prompt_lookup_num_tokens=3)
            assert [row.ids for row in guessed] == texts[-1]
        assert texts[0] == texts[1]

    def test_a_text_that_fits_is_the_same_with_and_without(self) -> None:
        for engine in engines(2):
            with_slide = generate(engine, [[1, 2]], max_new_tokens=60, long_generation="slide")
            assert with_slide[0].ids == generate(engine, [[1, 2]], max_new_tokens=60)[0].ids
