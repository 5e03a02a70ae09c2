"""SynthIDTextWatermarkDetector and its model against Transformers', at equal weights."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers.generation.watermarking import (
    BayesianDetectorConfig as TheirConfig,
)
from transformers.generation.watermarking import (
    BayesianDetectorModel as TheirModel,
)

import gpt2kit
from gpt2kit.errors import CheckpointError, ConfigError

SETTINGS = {
    "ngram_len": 3,
    "keys": [7, 21, 101, 9],
    "sampling_table_size": 256,
    "sampling_table_seed": 0,
    "context_history_size": 8,
}


@pytest.fixture
def models() -> tuple[gpt2kit.BayesianDetectorModel, TheirModel]:
    torch.manual_seed(0)
    ours = gpt2kit.BayesianDetectorModel(gpt2kit.BayesianDetectorConfig(4, base_rate=0.3)).eval()
    with torch.no_grad():
        for parameter in ours.likelihood_model_watermarked.parameters():
            parameter.normal_()
    theirs = TheirModel(TheirConfig(watermarking_depth=4, base_rate=0.3)).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def test_probabilities_and_losses(models: tuple[gpt2kit.BayesianDetectorModel, TheirModel]) -> None:
    for seed in range(10):
        draw = torch.Generator().manual_seed(seed)
        B, T = 2 + seed % 3, 5 + seed
        g_values = torch.randint(0, 2, (B, T, 4), generator=draw)
        mask = torch.randint(0, 2, (B, T), generator=draw)
        labels = torch.randint(0, 2, (B,), generator=draw).float()
        ours, theirs = (
            model(g_values, mask, labels=labels, loss_batch_weight=0.5, return_dict=True) for model in models
        )
        torch.testing.assert_close(ours.posterior_probabilities, theirs.posterior_probabilities)
        torch.testing.assert_close(ours.loss, theirs.loss)
        assert torch.equal(models[0](g_values, mask)[0], ours.posterior_probabilities)


def test_texts(models: tuple[gpt2kit.BayesianDetectorModel, TheirModel]) -> None:
    tokenizer = SimpleNamespace(eos_token_id=0)
    ours = gpt2kit.SynthIDTextWatermarkDetector(
        models[0], gpt2kit.SynthIDTextWatermarkLogitsProcessor(**SETTINGS, device="cpu"), tokenizer
    )
    theirs = transformers.SynthIDTextWatermarkDetector(
        models[1], transformers.SynthIDTextWatermarkLogitsProcessor(**SETTINGS, device="cpu"), tokenizer
    )
    for seed in range(5):
        ids = torch.randint(0, 12, (3, 20), generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(ours(ids)[0], theirs(ids)[0])


def test_folders_go_both_ways(
    models: tuple[gpt2kit.BayesianDetectorModel, TheirModel], tmp_path: Path
) -> None:
    ours, theirs = models
    ours.config.set_detector_information("gpt2", SETTINGS)
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    read = TheirModel.from_pretrained(tmp_path / "ours")
    assert all(torch.equal(a, b) for a, b in zip(read.parameters(), ours.parameters(), strict=True))
    assert read.config.watermarking_config == SETTINGS
    again = gpt2kit.BayesianDetectorModel.from_pretrained(tmp_path / "theirs")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ours.parameters(), strict=True))
    assert again.config.base_rate == 0.3
    assert gpt2kit.BayesianDetectorModel.from_pretrained(tmp_path / "ours").config == ours.config


def test_other_folders_are_refused() -> None:
    with pytest.raises((CheckpointError, ConfigError)):
        gpt2kit.BayesianDetectorModel.from_pretrained(gpt2kit.builtin.path())
    with pytest.raises(ConfigError, match="watermarking_depth is None"):
        gpt2kit.BayesianDetectorModel(gpt2kit.BayesianDetectorConfig())
