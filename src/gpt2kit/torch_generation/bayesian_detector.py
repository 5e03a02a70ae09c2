"""SynthIDTextWatermarkDetector: SynthID's watermark judged by a small model that was trained for its keys.

The model and its formulas are the Bayesian detector of Dathathri et al., Nature 634 (2024). SynthIDTextScorer of
generation/watermark_detector.py needs no training.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2kit.checkpoint.safetensors_file import SafetensorsFile
from gpt2kit.checkpoint.writer import write_safetensors
from gpt2kit.config.json_file import read_json_object, to_json_text, write_json
from gpt2kit.errors import CheckpointError, ConfigError
from gpt2kit.hub import resolve_folder
from gpt2kit.model.outputs import ModelOutput
from gpt2kit.torch_generation.watermark_processors import SynthIDTextWatermarkLogitsProcessor


@dataclass
class BayesianDetectorConfig:
    """What a BayesianDetectorModel was made for.

    watermarking_depth: the number of keys. base_rate: how probable a watermark is before anything is seen.
    model_name, watermarking_config: of the texts that it judges; kept for who loads it.
    """

    watermarking_depth: int | None = None
    base_rate: float = 0.5
    model_name: str | None = None
    watermarking_config: dict[str, Any] | None = None

    def set_detector_information(self, model_name: str, watermarking_config: dict[str, Any]) -> None:
        """Note the model and the settings of the texts."""
        self.model_name = model_name
        self.watermarking_config = watermarking_config


@dataclass
class BayesianWatermarkDetectorModelOutput(ModelOutput):
    """posterior_probabilities (B,); loss: cross-entropy with the labels and the penalty on weights."""

    loss: Tensor | None = None
    posterior_probabilities: Tensor | None = None


class BayesianDetectorWatermarkedLikelihood(nn.Module):
    """P(g-values | watermarked): whether two different tokens met in a match is a logistic regression."""

    def __init__(self, watermarking_depth: int) -> None:
        super().__init__()
        self.watermarking_depth = watermarking_depth
        self.beta = nn.Parameter(-2.5 + 0.001 * torch.randn(1, 1, watermarking_depth))
        self.delta = nn.Parameter(0.001 * torch.randn(1, 1, watermarking_depth, watermarking_depth))

    def forward(self, g_values: Tensor) -> Tensor:
        """Give the likelihoods (B, T, depth) of g-values (B, T, depth) of 0 and 1."""
        g = g_values.to(self.delta.dtype)
        earlier = self.delta.tril(diagonal=-1)[0, 0]  # a round sees the flips of the rounds before it
        p_two_tokens = torch.sigmoid(g @ earlier.T + self.beta)
        return 0.5 * ((g + 0.5) * p_two_tokens + (1 - p_two_tokens))


class BayesianDetectorModel(nn.Module):
    """P(watermarked | g-values) by Bayes' rule. Weights lie in model.safetensors beside config.json."""

    def __init__(self, config: BayesianDetectorConfig) -> None:
        super().__init__()
        if not config.watermarking_depth or config.watermarking_depth < 1:
            raise ConfigError(
                f"watermarking_depth is {config.watermarking_depth!r}; it must be the number of keys, at least 1"
            )
        self.config = config
        self.likelihood_model_watermarked = BayesianDetectorWatermarkedLikelihood(config.watermarking_depth)
        self.prior = nn.Parameter(torch.tensor([config.base_rate]))

    def forward(
        self,
        g_values: Tensor,
        mask: Tensor,
        labels: Tensor | None = None,
        loss_batch_weight: float = 1,
        return_dict: bool = False,
    ) -> BayesianWatermarkDetectorModelOutput | tuple[Tensor, ...]:
        """Give the probabilities (B,) of a watermark, and with labels (B,) a loss.

        g_values (B, T, depth); mask (B, T), 1 where they count. loss_batch_weight weighs the penalty on
        delta. Without return_dict: (probabilities,) or (probabilities, loss).
        """
        prior = self.prior.clamp(1e-5, 1 - 1e-5)
        likelihoods = self.likelihood_model_watermarked(g_values).clamp(min=1e-30)
        log_odds = torch.log(likelihoods) - torch.log(torch.full_like(likelihoods, 0.5))
        evidence = (log_odds * mask.unsqueeze(-1)).sum(dim=(1, 2))
        posterior = torch.sigmoid(torch.log(prior) - torch.log(1 - prior) + evidence)
        loss = None
        if labels is not None:
            penalty = (self.likelihood_model_watermarked.delta**2).sum() * loss_batch_weight
            loss = F.binary_cross_entropy(posterior.clamp(1e-5, 1 - 1e-5), labels) + penalty
        if return_dict:
            return BayesianWatermarkDetectorModelOutput(loss=loss, posterior_probabilities=posterior)
        return (posterior,) if loss is None else (posterior, loss)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any
    ) -> "BayesianDetectorModel":
        """Read a folder or a hub name that save_pretrained, ours or Transformers', wrote; options as for hub names.

        Raises CheckpointError, ConfigError or HubError.
        """
        folder = resolve_folder(
            pretrained_model_name_or_path, allow_patterns=["config.json", "model.safetensors"], **options
        )
        settings = read_json_object(folder / "config.json")
        known = BayesianDetectorConfig.__dataclass_fields__
        model = cls(BayesianDetectorConfig(**{name: settings[name] for name in known if name in settings}))
        file = SafetensorsFile(folder / "model.safetensors")
        file.map(use_mmap=False)
        found = {name: torch.from_numpy(file.view(name).copy()) for name in file.tensors}
        try:
            model.load_state_dict(found)
        except RuntimeError as error:
            raise CheckpointError(f"{folder} is no Bayesian detector: {error}") from None
        return model.eval()

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write config.json and model.safetensors."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"architectures": [type(self).__name__], **asdict(self.config)}
        write_json(folder / "config.json", to_json_text(settings))
        weights = {
            name: (tensor.detach().cpu().float().numpy(), "F32") for name, tensor in self.state_dict().items()
        }
        (folder / "model.safetensors").unlink(missing_ok=True)
        write_safetensors(folder / "model.safetensors", weights, {"format": "pt"})


class SynthIDTextWatermarkDetector:
    """Judges texts by a trained detector.

    detector_module: a BayesianDetectorModel, or anything called with g-values and a mask. logits_processor: with
    the settings of the generation. tokenizer: what follows its end token does not count.
    """

    def __init__(
        self, detector_module: Any, logits_processor: SynthIDTextWatermarkLogitsProcessor, tokenizer: Any
    ) -> None:
        self.detector_module = detector_module
        self.logits_processor = logits_processor
        self.tokenizer = tokenizer

    def __call__(self, tokenized_outputs: Tensor) -> Any:
        """Return what the detector says of texts (B, T), generated ids without their prompts."""
        processor = self.logits_processor
        is_text = processor.compute_eos_token_mask(tokenized_outputs, self.tokenizer.eos_token_id)
        is_new = processor.compute_context_repetition_mask(tokenized_outputs)
        mask = is_new * is_text[:, processor.ngram_len - 1 :]
        return self.detector_module(processor.compute_g_values(tokenized_outputs), mask)
