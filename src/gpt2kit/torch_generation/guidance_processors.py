"""Classifier-free guidance over tensors, under Transformers' names."""

from torch import Tensor

from gpt2kit.engine.torch import TorchEngine
from gpt2kit.errors import GenerationError
from gpt2kit.generation.processors.guidance import Guidance
from gpt2kit.generation.processors.penalties import normalize
from gpt2kit.model.gpt2 import GPT2LMHeadModel
from gpt2kit.torch_generation.logits_processor import LogitsProcessor, by_row


class ClassifierFreeGuidanceLogitsProcessor(LogitsProcessor):
    """Mixes scores (2 B, V), the conditional ones first, into (B, V): u + scale * (c - u)."""

    def __init__(self, guidance_scale: float) -> None:
        if not guidance_scale > 1:
            raise GenerationError(
                "Require guidance scale >1 to use the classifier free guidance processor, got guidance scale "
                f"{guidance_scale}."
            )
        self.guidance_scale = guidance_scale

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if len(scores) != 2 * len(input_ids):
            raise GenerationError(
                f"Logits should have twice the batch size of the input ids, conditional rows first; got "
                f"{len(scores)} rows of logits and {len(input_ids)} of input ids"
            )
        conditional, unconditional = scores.chunk(2)
        return unconditional + (conditional - unconditional) * self.guidance_scale


class UnbatchedClassifierFreeGuidanceLogitsProcessor(LogitsProcessor):
    """Leads rows away from what the model says without their prompts, as generate(guidance_scale=...) does.

    unconditional_ids (B, S) with their mask: what to lead away from, by default the last token of each prompt.
    One object serves one generation: the input_ids of its first call are the prompts. use_cache is accepted; the
    unconditional rows are always cached.
    """

    def __init__(
        self,
        guidance_scale: float,
        model: GPT2LMHeadModel,
        unconditional_ids: Tensor | None = None,
        unconditional_attention_mask: Tensor | None = None,
        use_cache: bool | None = True,
    ) -> None:
        self.guidance_scale = guidance_scale
        self.model = model
        self._unconditional_ids = unconditional_ids
        self._unconditional_attention_mask = unconditional_attention_mask
        self._guidance: Guidance | None = None
        self._num_prompt = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.guidance_scale == 1:
            return by_row(lambda _, ids, row: normalize(row), input_ids, scores)
        guidance = self._guidance
        if guidance is None:
            guidance = Guidance(
                TorchEngine(self.model), self.guidance_scale, self._negative_prompts(input_ids)
            )
            self._guidance, self._num_prompt = guidance, input_ids.shape[1]
        rows = [ids[self._num_prompt :] for ids in input_ids.tolist()]
        guidance.advance(list(enumerate(rows)))
        return by_row(lambda index, _, row: guidance.mix(index, rows[index], row), input_ids, scores)

    def _negative_prompts(self, input_ids: Tensor) -> list[list[int]]:
        if self._unconditional_ids is None:
            return [[int(last)] for last in input_ids[:, -1]]
        negative: list[list[int]] = self._unconditional_ids.tolist()
        if self._unconditional_attention_mask is not None:
            masks = self._unconditional_attention_mask.tolist()
            negative = [
                [token_id for token_id, is_shown in zip(ids, mask, strict=True) if is_shown]
                for ids, mask in zip(negative, masks, strict=True)
            ]
        repeats = len(input_ids) // len(negative) if negative else 0
        if repeats * len(negative) != len(input_ids) or not all(negative):
            raise GenerationError(
                f"unconditional_ids has {len(negative)} rows for {len(input_ids)}; give one for each, none empty"
            )
        return [ids for ids in negative for _ in range(repeats)]
