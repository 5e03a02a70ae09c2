"""generate(): the way from prompts to new token ids, over any engine.

With standard options an engine that brings its own loop runs it; otherwise RowLoop does. Both
choose the same ids: the arithmetic is fixed in processors/ and sampling.py, the random numbers in
random.py.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gpt2kit.config import GenerationConfig
from gpt2kit.errors import GenerationError
from gpt2kit.generation.batch import BatchCriterion, BatchProcessor
from gpt2kit.generation.healing import heal_prompts
from gpt2kit.generation.options import Options, merge, resolve
from gpt2kit.generation.processors.custom import AllowedTokens, Custom
from gpt2kit.generation.prompts import checked_prompts, negative_prompts_of
from gpt2kit.generation.protocol import Engine, NativeLoop
from gpt2kit.generation.protocol import Sequence as CachedSequence
from gpt2kit.generation.random import seeds_for
from gpt2kit.generation.rows import Generated, OnText, OnToken, RowWatch, Wanted
from gpt2kit.generation.text import RowText

# Loops and processors are imported where one is chosen: the native loop needs none of them, nor numpy.
if TYPE_CHECKING:
    from gpt2kit.generation.processors.guidance import Guidance
    from gpt2kit.generation.processors.scores import LogitsProcessor
    from gpt2kit.generation.row_loop import RowLoop, StoppingCriterion

DEFAULT_NEW_TOKENS = 20
DEFAULT_MAX_ROWS = 64


def generate(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig | None = None,
    *,
    model_config: GenerationConfig | None = None,
    seed: int | Sequence[int] | None = None,
    logits_processor: Sequence[LogitsProcessor] = (),
    stopping_criteria: Sequence[StoppingCriterion] = (),
    prefix_allowed_tokens_fn: AllowedTokens | None = None,
    negative_prompt_ids: Sequence[Sequence[int]] | None = None,
    on_token: OnToken | None = None,
    on_text: OnText | None = None,
    tokenizer: Any = None,  # any tokenizer that StreamDecoder takes
    trim_stop_strings: bool = False,
    max_rows: int = DEFAULT_MAX_ROWS,
    assistant: Engine | None = None,
    assistant_tokenizer: Any = None,
    **options: Any,
) -> list[Generated]:
    """Continue every prompt and return its rows, prompt by prompt, num_return_sequences each.

    prompts: token ids; an empty prompt starts from the BOS token, which is not returned.
    options: fields of GenerationConfig; they win over `config`, which wins over `model_config` (the model's
        own), which wins over the defaults: 20 new tokens, as far as n_positions allows, greedy.
    The other arguments are those of generate_merged.
    """
    return generate_merged(
        engine,
        prompts,
        merge(options, config, model_config),
        seed=seed,
        logits_processor=logits_processor,
        stopping_criteria=stopping_criteria,
        prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
        negative_prompt_ids=negative_prompt_ids,
        on_token=on_token,
        on_text=on_text,
        tokenizer=tokenizer,
        trim_stop_strings=trim_stop_strings,
        max_rows=max_rows,
        assistant=assistant,
        assistant_tokenizer=assistant_tokenizer,
    )


def generate_merged(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    merged: GenerationConfig,
    *,
    default_new_tokens: int = DEFAULT_NEW_TOKENS,
    seed: int | Sequence[int] | None = None,
    logits_processor: Sequence[LogitsProcessor] = (),
    stopping_criteria: Sequence[StoppingCriterion] = (),
    prefix_allowed_tokens_fn: AllowedTokens | None = None,
    negative_prompt_ids: Sequence[Sequence[int]] | None = None,
    on_token: OnToken | None = None,
    on_text: OnText | None = None,
    tokenizer: Any = None,  # any tokenizer that StreamDecoder takes
    trim_stop_strings: bool = False,
    skip_special_tokens: bool = True,
    max_rows: int = DEFAULT_MAX_ROWS,
    assistant: Engine | None = None,
    assistant_tokenizer: Any = None,
    starts: Sequence[CachedSequence] | None = None,
    keep_sequences: bool = False,
) -> list[Generated]:
    """Do what generate does with layers of options that are joined already.

    default_new_tokens: the length when `merged` sets none, as far as n_positions allows.
    seed: one int for every prompt, a list with one each, or None for fresh ones; with a seed a prompt gives
        the same ids alone and in any batch.
    logits_processor: callables (token_ids, scores (V,) float32) -> scores, run after the penalties and bans
        and before temperature and its like.
    stopping_criteria: callables (token_ids, scores) -> True to end the row.
    prefix_allowed_tokens_fn: a callable (prompt index, token_ids) -> ids that may follow.
    negative_prompt_ids: what guidance_scale leads away from, one list for each prompt or one for all; without
        it, the last token of each prompt.
    on_token, on_text: called as rows grow; see rows.py.
    tokenizer: needed for text and stop strings.
    trim_stop_strings: end the text before a stop string instead of after the token that completed it.
    skip_special_tokens: leave special tokens out of the text.
    max_rows: how many rows run at once; it bounds memory and changes no result. The rows of one prompt always
        run together.
    assistant: a smaller model that guesses tokens ahead, which makes the same text sooner; see speculation.py.
        With another tokenizer than the model's it needs tokenizer and assistant_tokenizer.
    starts: a sequence of the engine for each prompt that already holds its first `length` ids; it is extended
        and freed like the loop's own. It may hold more before them, and a prompt may have no ids then.
    keep_sequences: leave every row's sequence alive in Generated.sequence.

    Raises GenerationError before any work for options that cannot be met, and for scores that leave no
    choice.
    """
    wanted = Wanted.of(merged, sequence=keep_sequences)
    token_prompts = checked_prompts(engine, prompts, merged, may_be_empty=starts is not None)
    prompt_lengths = [len(prompt) for prompt in token_prompts]
    negative_prompts = negative_prompts_of(engine, token_prompts, negative_prompt_ids, merged)
    options = resolve(
        merged,
        engine.config,
        prompt_lengths,
        default_new_tokens=default_new_tokens,
        negative_lengths=[len(prompt) for prompt in negative_prompts],
    )
    seeds = seeds_for(seed, len(token_prompts))
    if max_rows < 1:
        raise GenerationError(f"max_rows must be at least 1, got {max_rows}")
    if tokenizer is None and (options.stop_strings or on_text is not None):
        what = "stop_strings are" if options.stop_strings else "on_text is"
        raise GenerationError(f"{what} about text, so the model's tokenizer is needed; pass tokenizer=")
    if tokenizer is None and merged.token_healing:
        raise GenerationError(
            " When generating with token healing, you must pass the model's tokenizer to the `tokenizer` argument"
        )
    if not token_prompts:
        return []
    unhealed = token_prompts
    if merged.token_healing:
        token_prompts = heal_prompts(engine, tokenizer, unhealed)
        negative_prompts = negative_prompts_of(engine, token_prompts, negative_prompt_ids, merged)
    changed_ends = [
        (old[-1], new[-1]) if old != new else None for old, new in zip(unhealed, token_prompts, strict=True)
    ]
    deadline = None if options.max_time is None else time.monotonic() + options.max_time
    watches = [
        RowWatch(
            prompt_index,
            row,
            seeds[prompt_index],
            prompt_lengths[prompt_index],
            options,
            healed_prompt=token_prompts[prompt_index] if merged.token_healing else None,
            text=_row_text(
                tokenizer, options, trim_stop_strings, skip_special_tokens, changed_ends[prompt_index]
            ),
            deadline=None if options.num_beams > 1 else deadline,
            on_token=on_token,
            on_text=on_text,
        )
        for prompt_index in range(len(token_prompts))
        for row in range(options.num_return_sequences)
    ]

    def observe(prompt_index: int, row: int, token_id: int) -> bool:
        return watches[prompt_index * options.num_return_sequences + row].observe(token_id)

    has_callback = on_token is not None or on_text is not None
    guidance = _guidance(engine, options, negative_prompts)
    custom = Custom(tuple(logits_processor), prefix_allowed_tokens_fn, guidance)
    loop_type = guesses = None
    if options.strategy is not None or assistant is not None:
        from gpt2kit.generation.strategies.choose import choose_drafter, choose_loop, native_guesses

        drafter = choose_drafter(engine, options, assistant, tokenizer, assistant_tokenizer)
        loop_type = choose_loop(options, drafter)
        guesses = native_guesses(engine, options, drafter)
    try:
        if options.num_beams > 1:
            from gpt2kit.generation.beams.search import beam_search

            return beam_search(
                engine,
                token_prompts,
                options,
                seeds,
                custom=custom,
                stopping_criteria=stopping_criteria,
                watches=watches,
                is_streamed=has_callback,
                new_text=lambda: _row_text(tokenizer, options, trim_stop_strings, skip_special_tokens),
                deadline=deadline,
                wanted=wanted,
                starts=starts,
                max_rows=max_rows,
            )
        is_watched = has_callback or bool(options.stop_strings) or deadline is not None
        observer = observe if is_watched else None
        is_known = (loop_type is None or guesses is not None) and not wanted and starts is None
        if is_known and is_standard(engine, options, custom, stopping_criteria):
            assert isinstance(engine, NativeLoop)
            rows = engine.generate_native(
                token_prompts, options, seeds, on_token=observer, max_rows=max_rows, guesses=guesses
            )
            return [
                replace(
                    watch.finish(row.ids, was_observed=is_watched),
                    num_guessed=row.num_guessed,
                    num_right=row.num_right,
                )
                for watch, row in zip(watches, rows, strict=True)
            ]
        loop = (loop_type or _plain_loop(logits_processor, stopping_criteria))(
            engine, token_prompts, options, seeds, custom, stopping_criteria, observer, wanted, starts
        )
        finished = loop.run(max_rows)
    finally:
        if guidance is not None:
            guidance.free()
    generated = []
    for watch, row in zip(watches, finished, strict=True):
        result = watch.finish(row.new_ids, was_observed=is_watched)
        result.steps = row.steps if wanted else None
        result.num_guessed, result.num_right = row.num_guessed, row.num_right
        result.sequence = row.sequence if wanted.sequence else None
        generated.append(result)
    return generated


def is_standard(
    engine: Engine, options: Options, custom: Custom, stopping_criteria: Sequence[StoppingCriterion]
) -> bool:
    """Return True when the engine has its own loop and no Python code has to see the scores."""
    return (
        isinstance(engine, NativeLoop) and options.is_native and custom == Custom() and not stopping_criteria
    )


def _guidance(engine: Engine, options: Options, negative_prompts: list[list[int]]) -> Guidance | None:
    if not negative_prompts:
        return None
    from gpt2kit.generation.processors.guidance import Guidance

    return Guidance(engine, options.guidance_scale, negative_prompts)


def _plain_loop(
    logits_processor: Sequence[LogitsProcessor], stopping_criteria: Sequence[StoppingCriterion]
) -> type[RowLoop]:
    """Return the loop of one token a row: in step, where something looks at the whole batch."""
    from gpt2kit.generation.lock_step import LockStepLoop
    from gpt2kit.generation.row_loop import RowLoop

    is_batchwise = any(
        isinstance(item, (BatchProcessor, BatchCriterion)) for item in (*logits_processor, *stopping_criteria)
    )
    return LockStepLoop if is_batchwise else RowLoop


def _row_text(
    tokenizer: Any,
    options: Options,
    trim: bool,
    skip_special_tokens: bool,
    changed_end: tuple[int, int] | None = None,
) -> RowText | None:
    """Make the text of a row; changed_end: the last id of the prompt before and after it was healed."""
    if tokenizer is None:
        return None
    from gpt2kit.tokenizer import StreamDecoder

    decoder = StreamDecoder(tokenizer, skip_special_tokens=skip_special_tokens)
    beginning = ""
    if changed_end is not None:
        old, new = changed_end
        beginning = decoder.push(new).removeprefix(StreamDecoder(tokenizer).push(old))
    return RowText(decoder, options.stop_strings, trim=trim, beginning=beginning)
