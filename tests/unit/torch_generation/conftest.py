import pytest
import torch

from gpt2kit import GPT2Config, GPT2LMHeadModel


@pytest.fixture(autouse=True)
def one_thread():
    """Threads cost more than they give where models are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=60,
        n_positions=40,
        n_embd=24,
        n_layer=2,
        n_head=3,
        bos_token_id=59,
        eos_token_id=59,
        initializer_range=0.3,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # so that texts do not repeat one token
    return model
