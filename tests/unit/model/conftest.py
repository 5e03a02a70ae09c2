import pytest
import torch

from gpt2kit.config import GPT2Config
from gpt2kit.model import GPT2LMHeadModel


@pytest.fixture
def config() -> GPT2Config:
    return GPT2Config(
        vocab_size=60, n_positions=16, n_embd=12, n_layer=2, n_head=3, bos_token_id=0, eos_token_id=0
    )


@pytest.fixture
def model(config) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(config).eval()
