"""Models that only the torch engine runs: with pruned heads, or with a cross-attention that nothing feeds."""

import pytest
import torch

from gpt2kit.config import GPT2Config
from gpt2kit.engine.load import load_engine
from gpt2kit.engine.torch import TorchEngine
from gpt2kit.model import GPT2LMHeadModel


@pytest.mark.parametrize("kind", ["pruned", "cross"])
def test_the_torch_engine_takes_over(tmp_path, kind: str) -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=60, n_positions=16, n_embd=12, n_layer=2, n_head=3, initializer_range=0.3,
        bos_token_id=0, eos_token_id=0, add_cross_attention=kind == "cross",
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    if kind == "pruned":
        model.prune_heads({0: [0, 2], 1: [1]})
    model.save_pretrained(tmp_path / "m")
    engine = load_engine(tmp_path / "m")
    assert isinstance(engine, TorchEngine)
    prompts = [[3, 1, 4], [1, 5, 9, 2, 6]]
    for prompt, ids in zip(prompts, engine.generate(prompts, max_new_tokens=5, do_sample=False), strict=True):
        text = list(prompt)
        for token in ids:
            with torch.no_grad():
                assert token == int(model(torch.tensor([text])).logits[0, -1].argmax())
            text.append(token)
