import pytest
import torch

import gpt2kit
from gpt2kit import AutoTokenizer, GPT2LMHeadModel, builtin
from gpt2kit.errors import ScoringError

TEXTS = ["In the beginning God created the heaven", "It is", "a truth universally acknowledged, that"]


@pytest.fixture(scope="module")
def reader() -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(builtin.path(), dtype=torch.float32).eval()


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_scores_of_a_batch_are_those_of_single_texts_and_of_the_logits(reader, engine) -> None:
    tokenizer = AutoTokenizer.from_pretrained(builtin.path())
    together = reader.score(TEXTS, tokenizer, engine=engine)
    for text, score in zip(TEXTS, together, strict=True):
        [alone] = reader.score([text], tokenizer, engine=engine)
        assert score.sum == pytest.approx(alone.sum, rel=1e-5)
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(text)]])
        with torch.no_grad():
            logits = reader(ids).logits[0, :-1].log_softmax(dim=-1)
        expected = logits.gather(1, ids[0, 1:, None]).sum().item()
        assert score.sum == pytest.approx(expected, rel=1e-5)


def test_the_tokenizer_is_found_beside_the_model(reader) -> None:
    reader.config.name_or_path = str(builtin.path())
    assert reader.score(TEXTS[:1])[0].num_scored > 3


def test_scoring_needs_a_tokenizer_and_eval_mode() -> None:
    config = gpt2kit.GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=9, eos_token_id=8, bos_token_id=8)
    model = GPT2LMHeadModel(config)
    with pytest.raises(ScoringError, match="training mode"):
        model.score(["a"])
    with pytest.raises(ScoringError, match="pass its tokenizer"):
        model.eval().score(["a"])
