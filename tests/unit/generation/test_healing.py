import numpy as np
import pytest

from fakes import FakeEngine, write_tiny_model
from gpt2kit.engine import load_engine
from gpt2kit.errors import GenerationError
from gpt2kit.generation import generate
from gpt2kit.generation.healing import heal_prompts
from gpt2kit.pipelines import pipeline
from gpt2kit.tokenizer import AutoTokenizer


class Words:
    """A tokenizer of a few words."""

    WORDS = ("<end>", "h", "ht", "http", "https", "t", "x", "xyz", "<h")
    all_special_ids = (0, 8)

    def get_vocab(self):
        return {word: index for index, word in enumerate(self.WORDS)} | {"hidden": 77}

    def convert_ids_to_tokens(self, index):
        return self.WORDS[index] if index < len(self.WORDS) else None


class Preferring(FakeEngine):
    """Scores are given, and the ids that were run are kept."""

    def __init__(self, **scores):
        super().__init__()
        self.asked = []
        self._scores = {Words.WORDS.index(word): score for word, score in scores.items()}

    def logits(self, ids):
        self.asked.append(list(ids))
        scores = np.zeros(50, dtype=np.float32)
        for index, score in self._scores.items():
            scores[index] = score
        return scores


def test_the_last_token_becomes_the_likeliest_that_extends_it():
    engine = Preferring(http=5.0, x=99.0)
    assert heal_prompts(engine, Words(), [[6, 1], [6, 2]]) == [[6, 3], [6, 3]]
    assert engine.asked == [[6], [6]]
    assert engine.num_alive == 0


def test_the_token_that_was_there_is_favoured_by_one():
    assert heal_prompts(Preferring(http=0.9), Words(), [[6, 2]]) == [[6, 2]]
    assert heal_prompts(Preferring(http=1.1), Words(), [[6, 2]]) == [[6, 3]]


def test_prompts_without_a_choice_stay_as_they_are_and_cost_nothing():
    engine = Preferring()
    prompts = [
        [2],
        [6, 4],
        [6, 0],
        [6, 8],
        [6, 40],
    ]  # one token, nothing extends it, special, special, unknown
    assert heal_prompts(engine, Words(), prompts) == prompts
    assert engine.batch_sizes == []


def test_a_prompt_beyond_n_positions_is_healed_by_what_the_model_sees_of_it():
    engine = Preferring(http=5.0)
    prompt = [5] * 99 + [1]
    assert heal_prompts(engine, Words(), [prompt]) == [[*prompt[:-1], 3]]
    assert engine.asked == [prompt[64:-1]]  # 64 positions are full at 64 and 96, and move by 32


def test_healing_needs_a_tokenizer():
    with pytest.raises(GenerationError, match="token healing, you must pass the model's tokenizer"):
        generate(FakeEngine(), [[1]], token_healing=True)


def test_the_text_goes_on_from_the_prompt_that_was_given(tmp_path):
    write_tiny_model(tmp_path)
    engine, tokenizer = load_engine(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    num_healed = 0
    for text in ("hel", "wh", "a hell", "x ", "a h", "oh l"):
        ids = tokenizer.encode(text)
        (row,) = generate(engine, [ids], tokenizer=tokenizer, token_healing=True, max_new_tokens=4)
        assert row.prompt_ids[:-1] == ids[:-1] and row.num_prompt_tokens == len(ids)
        assert text + row.text == tokenizer.decode([*row.prompt_ids, *row.ids], skip_special_tokens=True)
        (plain,) = generate(engine, [row.prompt_ids], tokenizer=tokenizer, max_new_tokens=4)
        assert plain.ids == row.ids
        num_healed += row.prompt_ids != ids

        pipe = pipeline("text-generation", model=str(tmp_path))
        (record,) = pipe(text, token_healing=True, do_sample=False, max_new_tokens=4)
        assert record["generated_text"] == text + row.text
    assert num_healed > 0


def test_transformers_heals_to_the_same_tokens(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    write_tiny_model(tmp_path)
    torch.set_num_threads(1)
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    theirs.pad_token = theirs.eos_token
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("we hel", "wh", "a hell", "a h", "oh l", "hello wh"):
        ids = tokenizer.encode(text)
        expected = model.heal_tokens(torch.tensor([ids]), theirs)[0].tolist()
        assert heal_prompts(load_engine(tmp_path), tokenizer, [ids]) == [expected]
