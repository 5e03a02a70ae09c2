"""Logits processors: each takes float32 scores (V,) and returns float32 scores (V,), in Transformers' order.

Arithmetic, the same in the native loop:
  * Scores are float32, and so are the divisions and products that change them (the option is rounded to
    float32 first).
  * A probability is float64: weight[i] = exp(float64(scores[i]) - float64(max)), total = sum of the weights
    one by one over ascending ids, p[i] = weight[i] / total. A removed token has score -inf and weight 0.
  * A sort puts equal values in ascending order of id, and a cumulative sum runs one by one in that order.
No function changes its argument, and the highest score is never removed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from gpt2kit.errors import GenerationError
from gpt2kit.generation.batch import BatchProcessor
from gpt2kit.generation.options import Options
from gpt2kit.generation.sampling import no_choice_message

Scores = npt.NDArray[np.float32]
# (ids of the whole sequence, prompt included; scores (V,)) -> scores (V,)
LogitsProcessor = Callable[[list[int], Scores], Scores]

_NEG_INF = np.float32(-np.inf)


def penalize_repetition(token_ids: Sequence[int], scores: Scores, penalty: float) -> Scores:
    """Divide positive scores and multiply negative ones of all tokens seen so far by `penalty`, once each."""
    seen = np.unique(np.asarray(token_ids, dtype=np.int64))
    seen = seen[seen < len(scores)]
    factor = np.float32(penalty)
    out: Scores = scores.copy()
    old = scores[seen]
    out[seen] = np.where(old < 0, old * factor, old / factor)
    return out


def ban_repeated_ngrams(token_ids: Sequence[int], scores: Scores, size: int) -> Scores:
    """Ban every token that would complete an n-gram of `size` tokens that the sequence already holds."""
    if len(token_ids) < size:
        return scores
    ids = np.asarray(token_ids, dtype=np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(ids, size)  # (T - size + 1, size)
    prefix = ids[len(ids) + 1 - size :]
    banned = windows[(windows[:, :-1] == prefix).all(axis=1), -1]
    return _ban(scores, banned[banned < len(scores)])


def ban_words(token_ids: Sequence[int], scores: Scores, bad_words_ids: Sequence[Sequence[int]]) -> Scores:
    """Ban the last token of every word whose other tokens end the sequence."""
    banned = []
    for word in bad_words_ids:
        start = len(token_ids) - len(word) + 1
        if start >= 0 and tuple(token_ids[start:]) == tuple(word[:-1]):
            banned.append(word[-1])
    return _ban(scores, banned)


def ban_tokens(scores: Scores, token_ids: Sequence[int]) -> Scores:
    """Ban these tokens; ids past the vocabulary are nothing to ban."""
    return _ban(scores, [token_id for token_id in token_ids if token_id < len(scores)])


def scale_temperature(scores: Scores, temperature: float) -> Scores:
    """Divide the scores by float32(temperature)."""
    scaled: Scores = scores / np.float32(temperature)
    return scaled


def keep_top_k(scores: Scores, top_k: int) -> Scores:
    """Remove all scores below the top_k-th largest; ties with it stay."""
    if top_k >= len(scores):
        return scores
    threshold = np.partition(scores, len(scores) - top_k)[len(scores) - top_k]
    return np.where(scores < threshold, _NEG_INF, scores)


def keep_top_p(scores: Scores, top_p: float) -> Scores:
    """Keep the smallest set of the most probable tokens that holds `top_p` of the probability.

    Weights are sorted descending; a token stays if the sum of the weights before it, taken in that order, is
    < top_p * total. The first always stays.
    """
    weights = _weights(scores)
    candidates = np.flatnonzero(weights)
    total = np.cumsum(weights[candidates])[-1]
    order = candidates[np.argsort(-weights[candidates], kind="stable")]
    keep = np.ones(len(order), dtype=bool)
    keep[1:] = np.cumsum(weights[order])[:-1] < top_p * total
    return _keep(scores, order[keep])


def keep_min_p(scores: Scores, min_p: float) -> Scores:
    """Remove tokens less probable than min_p times the first: weight < min_p, as the first has weight 1."""
    return np.where(_weights(scores) < min_p, _NEG_INF, scores)


def keep_typical(scores: Scores, typical_p: float) -> Scores:
    """Keep the tokens whose surprise is nearest to the entropy, until they hold `typical_p`.

    log p[i] = float64(scores[i]) - max - log(total); entropy = -sum of p * log p over ascending ids.
    distance[i] = |-log p[i] - entropy|, sorted ascending; with cum the cumulative p in that order and
    last = min(number of cum < typical_p, count - 1), tokens farther than distance[last] are removed.
    """
    candidates, p, log_p = _distribution(scores)
    distance = np.abs(-log_p - _entropy(p, log_p))
    order = np.argsort(distance, kind="stable")
    cumulative = np.cumsum(p[order])
    last = min(int(np.count_nonzero(cumulative < typical_p)), len(order) - 1)
    return _keep(scores, candidates[distance <= distance[order[last]]])


def cut_epsilon(scores: Scores, epsilon: float) -> Scores:
    """Remove tokens with p < epsilon, but none that ties with the highest score."""
    candidates, p, _ = _distribution(scores)
    return _keep(scores, candidates[(p >= epsilon) | (scores[candidates] == scores.max())])


def cut_eta(scores: Scores, epsilon: float) -> Scores:
    """Remove tokens with p < min(epsilon, sqrt(epsilon) * exp(-entropy)), never the first."""
    candidates, p, log_p = _distribution(scores)
    eta = min(epsilon, float(np.sqrt(epsilon) * np.exp(-_entropy(p, log_p))))
    return _keep(scores, candidates[(p >= eta) | (scores[candidates] == scores.max())])


def build_processors(
    options: Options, prompt_index: int, prompt_length: int, custom: Sequence[LogitsProcessor] = ()
) -> list[LogitsProcessor]:
    """Return the processors of one prompt in the order in which they are applied.

    repetition_penalty, no_repeat_ngram_size, bad_words_ids, min_new_tokens (min_length is folded into it),
    the custom ones, then when sampling temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff,
    eta_cutoff.
    """
    chain: list[LogitsProcessor] = []
    o = options
    if o.repetition_penalty != 1.0:
        chain.append(lambda ids, scores: penalize_repetition(ids, scores, o.repetition_penalty))
    if o.no_repeat_ngram_size > 0:
        chain.append(lambda ids, scores: ban_repeated_ngrams(ids, scores, o.no_repeat_ngram_size))
    if o.bad_words_ids:
        chain.append(lambda ids, scores: ban_words(ids, scores, o.bad_words_ids))
    min_length = prompt_length + o.min_new_tokens[prompt_index]
    if o.eos_token_ids and min_length > prompt_length:
        chain.append(
            lambda ids, scores: ban_tokens(scores, o.eos_token_ids) if len(ids) < min_length else scores
        )
    chain.extend(custom)
    if not o.do_sample:
        return chain
    chain.append(_require_choice)
    if o.temperature != 1.0:
        chain.append(lambda ids, scores: scale_temperature(scores, o.temperature))
    if o.top_k > 0:
        chain.append(lambda ids, scores: keep_top_k(scores, o.top_k))
    if o.top_p < 1.0:
        chain.append(lambda ids, scores: keep_top_p(scores, o.top_p))
    if o.min_p > 0.0:
        chain.append(lambda ids, scores: keep_min_p(scores, o.min_p))
    if o.typical_p < 1.0:
        chain.append(lambda ids, scores: keep_typical(scores, o.typical_p))
    if o.epsilon_cutoff > 0.0:
        chain.append(lambda ids, scores: cut_epsilon(scores, o.epsilon_cutoff))
    if o.eta_cutoff > 0.0:
        chain.append(lambda ids, scores: cut_eta(scores, o.eta_cutoff))
    return chain


def process(chain: Sequence[LogitsProcessor], token_ids: list[int], scores: Scores) -> Scores:
    """Apply the processors in order; raises GenerationError when one changes the shape of the scores."""
    for processor in chain:
        scores = processor(token_ids, scores)
    return scores


def checked_custom(processor: LogitsProcessor) -> LogitsProcessor:
    """Wrap a caller's processor: a wrong shape or type is one clear error, and its scores are float32.

    One for whole batches is returned as it is, for the loop to recognise.
    """
    if isinstance(processor, BatchProcessor):
        return processor

    def run(token_ids: list[int], scores: Scores) -> Scores:
        result = np.asarray(processor(token_ids, scores.copy()))
        if result.shape != scores.shape or not np.issubdtype(result.dtype, np.floating):
            raise GenerationError(
                f"logits_processor {processor!r} returned {result.dtype} {result.shape}; "
                f"it must return floating point scores of shape {scores.shape}"
            )
        return result.astype(np.float32, copy=False)

    return run


def _require_choice(token_ids: list[int], scores: Scores) -> Scores:
    """Stop before the probabilities are made when there are none; see sampling.sample."""
    highest = float(np.max(scores))
    if not np.isfinite(highest):
        raise GenerationError(no_choice_message(highest))
    return scores


def _ban(scores: Scores, token_ids: Sequence[int] | npt.NDArray[np.int64]) -> Scores:
    if len(token_ids) == 0:
        return scores
    out: Scores = scores.copy()
    out[np.asarray(token_ids, dtype=np.int64)] = _NEG_INF
    return out


def _keep(scores: Scores, token_ids: npt.NDArray[np.int64]) -> Scores:
    out: Scores = np.full_like(scores, _NEG_INF)
    out[token_ids] = scores[token_ids]
    return out


def _weights(scores: Scores) -> npt.NDArray[np.float64]:
    wide = scores.astype(np.float64)
    weights: npt.NDArray[np.float64] = np.exp(wide - wide.max())
    return weights


def _distribution(
    scores: Scores,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the ids that are left, ascending, with their p and log p; zeros would change no sum."""
    candidates = np.flatnonzero(scores > -np.inf)
    shifted = scores[candidates].astype(np.float64) - float(scores.max())
    weights = np.exp(shifted)
    total = np.cumsum(weights)[-1]
    return candidates, weights / total, shifted - np.log(total)


def _entropy(p: npt.NDArray[np.float64], log_p: npt.NDArray[np.float64]) -> float:
    return -float(np.cumsum(p * log_p)[-1])
