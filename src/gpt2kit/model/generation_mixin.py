"""GenerationMixin: what a language model offers besides forward; the work is done in layers above.

Those are imported when they are called: see docs/decisions/0006-generate-on-the-model.md.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gpt2kit.config import GenerationConfig

if TYPE_CHECKING:
    from gpt2kit.scoring import Score
    from gpt2kit.torch_generation import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput


class GenerationMixin:
    """generate() and its company, for models with a language model head."""

    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: Iterable[Callable[[Tensor, Tensor], Tensor]] | None = None,
        stopping_criteria: Iterable[Callable[..., Any]] | None = None,
        prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | None = None,
        synced_gpus: bool | None = None,
        assistant_model: Any = None,
        streamer: Any = None,
        negative_prompt_ids: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        custom_generate: Any = None,
        **kwargs: Any,
    ) -> "Tensor | GenerateDecoderOnlyOutput | GenerateBeamDecoderOnlyOutput":
        """Continue the rows of a batch and return prompts and new tokens, int64 (B, T + N).

        inputs (or input_ids=): int64 (B, T); or inputs_embeds= (B, T, C), of which only new tokens are
            returned; or nothing, to start from BOS. attention_mask= (B, T) is 0 at padding, on either side; a
            padded row gives what it gives alone. Without it, padding is told by pad_token_id where that is no
            end token.
        generation_config, and every field of GenerationConfig by name: the call's win over the config passed,
            that over model.generation_config, that over the defaults (20 new tokens, greedy). None in the call
            switches off what the others set.
        logits_processor: callables (input_ids (B, L), scores (B, V)) -> scores, run after the penalties and
            before temperature and its like. stopping_criteria: callables (input_ids, scores) -> bool, or bool
            (B,) to end rows one by one. prefix_allowed_tokens_fn: (row, input_ids (L,)) -> ids that may follow.
        streamer: gets put(prompts (B, T)), put(tokens (B,)) for each step and end().
        past_key_values=: a Cache that holds the beginning; it is extended in place. Then input_ids may be all
            ids, or only those after the cache if attention_mask covers both.
        return_dict_in_generate=True returns a GenerateDecoderOnlyOutput or GenerateBeamDecoderOnlyOutput.
        tokenizer=: for stop_strings and token_healing. seed=: an int, or one a row, for sampling; without it torch.manual_seed
            makes a run repeatable. engine=: "auto" runs on the native engine, over the model's own weights,
            where that gives the same ids; "native" insists on it, "torch" never uses it.

        Rows that end early are filled with pad_token_id, by default the first end token. Raises ValueError
        (GenerationError) before any work for arguments that are unknown or cannot be met.
        """
        from gpt2kit import torch_generation

        return torch_generation.generate(
            self,  # type: ignore[arg-type]  # the models with a head inherit from this class
            inputs,
            generation_config,
            logits_processor,
            stopping_criteria,
            prefix_allowed_tokens_fn,
            synced_gpus,
            assistant_model,
            streamer,
            negative_prompt_ids,
            negative_prompt_attention_mask,
            custom_generate,
            **kwargs,
        )

    def compute_transition_scores(
        self,
        sequences: Tensor,
        scores: Sequence[Tensor],
        beam_indices: Tensor | None = None,
        normalize_logits: bool = False,
    ) -> Tensor:
        """Return the score of each generated token, (B, N), of what generate() returned.

        normalize_logits takes the log-softmax of the scores; 0 where a beam has ended.
        """
        from gpt2kit import torch_generation

        return torch_generation.compute_transition_scores(sequences, scores, beam_indices, normalize_logits)

    def heal_tokens(self, input_ids: Tensor, tokenizer: Any = None) -> Tensor:
        """Return input_ids (B, T) with each row's last token chosen again among those that begin with its text.

        What generate(token_healing=True) does first; see gpt2kit.generation.healing.
        """
        from gpt2kit import torch_generation

        return torch_generation.heal_tokens(self, input_ids, tokenizer)  # type: ignore[arg-type]  # as above

    def score(
        self, texts: Iterable[str], tokenizer: Any = None, *, engine: str = "auto", **options: Any
    ) -> "list[Score]":
        """Return how probable each text is: log-probabilities of its tokens, perplexity, bits per byte.

        tokenizer: the model's; without it, the one that lies where the model was loaded from. engine: as for
        generate(). options: stride, window, add_bos and batch_tokens of gpt2kit.score. Raises ScoringError for
        a model in training mode and what gpt2kit.score refuses.
        """
        from gpt2kit import torch_generation

        return torch_generation.score_texts(self, texts, tokenizer, engine=engine, **options)  # type: ignore[arg-type]
