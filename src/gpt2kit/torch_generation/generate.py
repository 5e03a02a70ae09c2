"""generate() over tensors: Transformers' arguments and results around gpt2kit.generation."""

import copy
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from gpt2kit.config import GenerationConfig
from gpt2kit.config.generation_fields import CHECKS
from gpt2kit.engine.torch import TorchEngine
from gpt2kit.errors import GenerationError
from gpt2kit.generation import Engine, Generated
from gpt2kit.generation.loop import generate_merged
from gpt2kit.generation.options import merge
from gpt2kit.generation.strategies.options import resolve_strategy
from gpt2kit.model.cache.base import Cache, checked_cache
from gpt2kit.model.gpt2 import GPT2WithLMHead
from gpt2kit.torch_generation.caches import PLAIN, cache_factory, extend, start_sequences
from gpt2kit.torch_generation.callables import Batch, TorchCriteria, TorchProcessors, allowed_tokens
from gpt2kit.torch_generation.engines import choose_engine
from gpt2kit.torch_generation.healing import healed
from gpt2kit.torch_generation.outputs import (
    GenerateBeamDecoderOnlyOutput,
    GenerateDecoderOnlyOutput,
    StepTensors,
    beam_indices,
    sequences,
)
from gpt2kit.torch_generation.prompts import Prompts, concrete_lengths, prepare, special_tokens, unpadded
from gpt2kit.torch_generation.streaming import Feed

# Fields that the generation over engines refuses, and this module sees to.
_ACTED_ON = (
    "use_cache",
    "cache_implementation",
    "cache_config",
    "max_cache_len",
    "return_dict_in_generate",
)
# Arguments of the models' forward that generate() takes; logits_to_keep changes no result.
_MODEL_INPUTS = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "position_ids",
    "inputs_embeds",
    "past_key_values",
    "encoder_hidden_states",
    "encoder_attention_mask",
    "head_mask",
    "logits_to_keep",
)


@torch.no_grad()
def generate(
    model: GPT2WithLMHead,
    inputs: Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    logits_processor: Iterable[Callable[[Tensor, Tensor], Tensor]] | None = None,
    stopping_criteria: Iterable[Callable[..., Any]] | None = None,
    prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | None = None,
    synced_gpus: bool | None = None,
    assistant_model: GPT2WithLMHead | None = None,
    streamer: Any = None,
    negative_prompt_ids: Tensor | None = None,
    negative_prompt_attention_mask: Tensor | None = None,
    custom_generate: Any = None,
    *,
    tokenizer: Any = None,
    assistant_tokenizer: Any = None,
    seed: int | Sequence[int] | None = None,
    engine: str = "auto",
    **kwargs: Any,
) -> Tensor | GenerateDecoderOnlyOutput | GenerateBeamDecoderOnlyOutput:
    """Continue the rows of a batch; see GenerationMixin.generate."""
    options = {name: kwargs.pop(name) for name in list(kwargs) if name in CHECKS}
    model_inputs = _model_inputs(model, inputs, kwargs)
    _refuse(synced_gpus, custom_generate)
    merged = _merged(model, generation_config, options)
    if "past_key_values" in model_inputs:
        if merged.cache_implementation is not None:
            raise ValueError(
                "Passing both `cache_implementation` (used to initialize certain caches) and `past_key_values` (a "
                "Cache object) is unsupported. Please use only one of the two."
            )
        checked_cache(model_inputs["past_key_values"])
    prompts = prepare(model_inputs, merged, model.config, model.device)
    concrete_lengths(merged, prompts.mask.shape[1], model.config.n_positions)
    ends, pad = special_tokens(merged, model.config)
    pad_token_id = pad if pad is not None else 0
    num_beams, repeats = merged.num_beams or 1, merged.num_return_sequences or 1
    returns_dict = bool(merged.return_dict_in_generate)
    _drop_unreturned(merged, returns_dict)
    # A window that slides over the text leaves no cache of the whole.
    slides = prompts.mask.shape[1] + (merged.max_new_tokens or 0) > model.config.n_positions
    if slides and prompts.past is not None:
        raise GenerationError(
            "past_key_values cannot grow beyond n_positions; leave it out, or ask for fewer new tokens"
        )
    returns_cache = returns_dict and merged.use_cache is not False and not slides

    runner = _runner(model, engine, merged, prompts, returns_cache=returns_cache)
    if merged.token_healing:
        prompts = healed(prompts, runner, tokenizer)
        merged.token_healing = None
    starts = None
    if prompts.torch_only is not None:
        assert isinstance(runner, TorchEngine)
        starts = start_sequences(runner, prompts)
    keeps_sequences = prompts.past is not None or (returns_cache and isinstance(runner, TorchEngine))
    batch = Batch(prompts, pad_token_id, repeats)
    feed = None
    if streamer is not None:
        is_plain = assistant_model is None and resolve_strategy(merged, model.config) is None
        feed = Feed(
            streamer,
            prompts,
            repeats,
            pad_token_id=pad_token_id,
            eos_token_ids=ends,
            max_new_tokens=merged.max_new_tokens or 0,
            is_in_step=is_plain and num_beams == 1,
        )
    allowed = prefix_allowed_tokens_fn and allowed_tokens(prefix_allowed_tokens_fn, prompts)
    try:
        rows = generate_merged(
            runner,
            prompts.ids,
            merged,
            seed=_seeds(merged, seed, len(prompts.ids)),
            logits_processor=[TorchProcessors(logits_processor, batch)] if logits_processor else (),
            stopping_criteria=[TorchCriteria(stopping_criteria, batch)] if stopping_criteria else (),
            on_token=None if feed is None else feed.on_token,
            prefix_allowed_tokens_fn=allowed,
            negative_prompt_ids=unpadded(negative_prompt_ids, negative_prompt_attention_mask),
            tokenizer=tokenizer if merged.stop_strings or assistant_tokenizer is not None else None,
            assistant=None if assistant_model is None else _assistant(assistant_model, engine),
            assistant_tokenizer=assistant_tokenizer,
            max_rows=max(len(prompts.ids) * max(repeats, num_beams), 1),
            starts=starts,
            keep_sequences=keeps_sequences,
        )
    finally:
        if feed is not None:
            feed.end()  # also when it failed: somebody may be waiting for the next piece
    result = sequences(prompts, rows, pad_token_id)
    cache: Cache | None = None
    if prompts.past is not None:
        cache = extend(prompts.past, prompts, rows)
    elif keeps_sequences:
        assert isinstance(runner, TorchEngine)
        cache = extend(runner.new_sequence().cache, prompts, rows)
    if not returns_dict:
        return result
    return _output(merged, prompts, rows, result, cache, pad_token_id)


def _model_inputs(model: GPT2WithLMHead, inputs: Tensor | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Check the arguments that are no options and return those that are set; `inputs` is input_ids."""
    given = {name: value for name, value in kwargs.items() if value is not None}
    known = inspect.signature(model.forward).parameters
    unused = [name for name in given if name not in known and name != "logits_to_keep"]
    if unused:
        raise ValueError(
            f"The following `model_kwargs` are not used by the model: {unused} (note: typos in the generate "
            "arguments will also show up in this list)"
        )
    refused = [name for name in given if name not in _MODEL_INPUTS]
    if refused:
        raise GenerationError(
            f"generate() does not take {', '.join(refused)}; of the model's inputs it takes "
            f"{', '.join(_MODEL_INPUTS)}"
        )
    if inputs is not None:
        if "input_ids" in given:
            raise ValueError(
                "`inputs` were passed alongside input_ids, which is not allowed; pass one of them"
            )
        given["input_ids"] = inputs
    return given


def _refuse(synced_gpus: bool | None, custom_generate: Any) -> None:
    if synced_gpus:
        raise GenerationError("synced_gpus=True is not available: every process generates on its own")
    if custom_generate is not None:
        raise GenerationError(
            "custom_generate is not available: code from a hub is never run, and a function of your own needs "
            "no generate() around it"
        )


def _merged(
    model: GPT2WithLMHead, generation_config: GenerationConfig | None, options: dict[str, Any]
) -> GenerationConfig:
    """Join options of the call, the config passed and the model's own; None in the call switches off."""
    if not isinstance(generation_config, GenerationConfig | None):
        raise TypeError(
            f"generation_config is a {type(generation_config).__name__}; give a gpt2kit.GenerationConfig, or its "
            "options by name"
        )
    own: GenerationConfig | None = getattr(model, "generation_config", None)
    given = {name: value for name, value in options.items() if value is not None}
    merged = copy.copy(merge(given, generation_config, own, acted_on=_ACTED_ON))
    for name in options.keys() - given.keys():
        setattr(merged, name, {"eos_token_id": [], "top_k": 0}.get(name))
    if own is not None and merged.eos_token_id is None:
        merged.eos_token_id = []
    return merged


def _drop_unreturned(merged: GenerationConfig, returns_dict: bool) -> None:
    if not returns_dict:
        merged.update(
            output_scores=None, output_logits=None, output_attentions=None, output_hidden_states=None
        )


def _runner(
    model: GPT2WithLMHead, engine: str, merged: GenerationConfig, prompts: Prompts, *, returns_cache: bool
) -> Engine:
    """Choose the engine that the call runs on."""
    longest = prompts.mask.shape[1] + (merged.max_new_tokens or 0)
    new_cache = cache_factory(merged, model.config, longest)  # also a check, where it is not needed
    needs = {
        f"{prompts.torch_only} is given": prompts.torch_only is not None,
        f"cache_implementation is {merged.cache_implementation!r}": merged.cache_implementation not in PLAIN,
        "past_key_values is returned": returns_cache and engine == "auto",
        "hidden_states or attentions are returned": bool(
            merged.output_hidden_states or merged.output_attentions
        ),
    }
    native = choose_engine(
        model, engine, needs_torch=next((why for why, is_so in needs.items() if is_so), None)
    )
    if native is not None:
        return native
    return TorchEngine(
        model,
        new_cache=new_cache,
        forward_inputs=None if prompts.head_mask is None else {"head_mask": prompts.head_mask},
        allow_training=True,
    )


def _assistant(model: GPT2WithLMHead, engine: str) -> Engine:
    """Return an engine for a draft model."""
    if not isinstance(model, GPT2WithLMHead):
        raise TypeError(
            f"assistant_model is a {type(model).__name__}; give a GPT2LMHeadModel, loaded with from_pretrained"
        )
    return choose_engine(model, engine) or TorchEngine(model, allow_training=True)


def _seeds(
    merged: GenerationConfig, seed: int | Sequence[int] | None, num_prompts: int
) -> int | Sequence[int] | None:
    """Return the seeds: as asked, else drawn from torch's generator, which torch.manual_seed repeats."""
    if seed is not None or not merged.do_sample:
        return seed
    drawn: list[int] = torch.randint(0, 2**63 - 1, (num_prompts,)).tolist()
    return drawn


def _output(
    merged: GenerationConfig,
    prompts: Prompts,
    rows: list[Generated],
    result: Tensor,
    cache: Cache | None,
    pad_token_id: int,
) -> GenerateDecoderOnlyOutput | GenerateBeamDecoderOnlyOutput:
    num_beams = merged.num_beams or 1
    steps = StepTensors(prompts, rows, num_beams, pad_token_id)
    common: dict[str, Any] = {
        "sequences": result,
        "scores": steps.scores() if merged.output_scores else None,
        "logits": steps.logits() if merged.output_logits else None,
        "attentions": steps.attentions() if merged.output_attentions else None,
        "hidden_states": steps.hidden_states() if merged.output_hidden_states else None,
        "past_key_values": cache,
    }
    if num_beams == 1:
        return GenerateDecoderOnlyOutput(**common)
    scores = None
    if merged.output_scores:
        scores = torch.tensor([row.score for row in rows], device=result.device)
    indices = beam_indices(rows, num_beams, result.device) if merged.output_scores else None
    return GenerateBeamDecoderOnlyOutput(**common, sequences_scores=scores, beam_indices=indices)
