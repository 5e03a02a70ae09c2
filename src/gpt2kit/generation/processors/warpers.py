"""Processors of sampling: temperature, and those that remove improbable tokens.

They leave the scores of the tokens that stay. The highest score is never removed, nor are the first
`min_tokens_to_keep` tokens in each one's own order.
"""

from __future__ import annotations

import numpy as np

from gpt2kit.generation.processors.scores import NEG_INF, Ids, Scores, distribution, entropy, keep, weights

TOP_H_CANDIDATES = 100


def scale_temperature(scores: Scores, temperature: float) -> Scores:
    """Divide the scores by float32(temperature)."""
    with np.errstate(over="ignore"):  # the least float32, of a score that remove_invalid_values made finite
        scaled: Scores = scores / np.float32(temperature)
    return scaled


def keep_top_h(scores: Scores, top_h: float) -> Scores:
    """Keep the most probable tokens that hold `top_h` of the entropy, out of the first 100.

    (Potraghloo et al., "Top-H decoding", 2025.) Of the 100 highest scores, descending, a token stays if the sum
    of -p * log p up to it, p among these 100, is at most top_h times the whole; the first always does.
    """
    is_high = (scores >= _kth_largest(scores, TOP_H_CANDIDATES)) & (scores > -np.inf)
    order = _descending(scores, np.flatnonzero(is_high))[:TOP_H_CANDIDATES]
    _, p, log_p = distribution(scores[order])
    terms = np.cumsum(-p * log_p)
    stays = (terms <= top_h * terms[-1]) & (p > 0.0)
    stays[0] = True
    return keep(scores, order[stays])


def keep_top_k(scores: Scores, top_k: int, min_tokens_to_keep: int = 1) -> Scores:
    """Remove all scores below the top_k-th largest; ties with it stay."""
    count = max(top_k, min_tokens_to_keep)
    if count >= len(scores):
        return scores
    return np.where(scores < _kth_largest(scores, count), NEG_INF, scores)


def keep_top_p(scores: Scores, top_p: float, min_tokens_to_keep: int = 1) -> Scores:
    """Keep the smallest set of the most probable tokens that holds `top_p` of the probability.

    Weights are sorted descending; a token stays if the sum of the weights before it, taken in that order, is
    < top_p * total. The first always stays.
    """
    all_weights = weights(scores)
    candidates = np.flatnonzero(all_weights)
    total = np.cumsum(all_weights[candidates])[-1]
    order = candidates[np.argsort(-all_weights[candidates], kind="stable")]
    stays = np.ones(len(order), dtype=bool)
    stays[1:] = np.cumsum(all_weights[order])[:-1] < top_p * total
    stays[:min_tokens_to_keep] = True
    return keep(scores, order[stays])


def keep_min_p(scores: Scores, min_p: float, min_tokens_to_keep: int = 1) -> Scores:
    """Remove tokens less probable than min_p times the first: weight < min_p, as the first has weight 1."""
    stays = weights(scores) >= min_p
    if min_tokens_to_keep > 1:
        stays[_descending(scores, np.arange(len(scores)))[:min_tokens_to_keep]] = True
    return np.where(stays, scores, NEG_INF)


def keep_typical(scores: Scores, typical_p: float, min_tokens_to_keep: int = 1) -> Scores:
    """Keep the tokens whose surprise is nearest to the entropy, until they hold `typical_p`.

    log p[i] = float64(scores[i]) - max - log(total); entropy = -sum of p * log p over ascending ids.
    distance[i] = |-log p[i] - entropy|, sorted ascending; with cum the cumulative p in that order and
    last = min(number of cum < typical_p, count - 1), tokens farther than distance[last] are removed.
    """
    candidates, p, log_p = distribution(scores)
    distance = np.abs(-log_p - entropy(p, log_p))
    order = np.argsort(distance, kind="stable")
    cumulative = np.cumsum(p[order])
    last = min(int(np.count_nonzero(cumulative < typical_p)), len(order) - 1)
    stays = distance <= distance[order[last]]
    stays[order[:min_tokens_to_keep]] = True
    return keep(scores, candidates[stays])


def cut_epsilon(scores: Scores, epsilon: float, min_tokens_to_keep: int = 1) -> Scores:
    """Remove tokens with p < epsilon, but none that ties with the highest score."""
    candidates, p, _ = distribution(scores)
    return keep(scores, candidates[(p >= epsilon) | _is_high(scores, candidates, min_tokens_to_keep)])


def cut_eta(scores: Scores, epsilon: float, min_tokens_to_keep: int = 1) -> Scores:
    """Remove tokens with p < min(epsilon, sqrt(epsilon) * exp(-entropy)), never the first."""
    candidates, p, log_p = distribution(scores)
    eta = min(epsilon, float(np.sqrt(epsilon) * np.exp(-entropy(p, log_p))))
    return keep(scores, candidates[(p >= eta) | _is_high(scores, candidates, min_tokens_to_keep)])


def _is_high(scores: Scores, candidates: Ids, count: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Tell which candidates are among the `count` highest scores, ties included."""
    high: np.ndarray[tuple[int], np.dtype[np.bool_]] = scores[candidates] >= _kth_largest(scores, count)
    return high


def _kth_largest(scores: Scores, k: int) -> np.float32:
    k = min(k, len(scores))
    largest: np.float32 = scores.max() if k == 1 else np.partition(scores, len(scores) - k)[len(scores) - k]
    return largest


def _descending(scores: Scores, token_ids: Ids) -> Ids:
    """Sort token ids by their scores, highest first, ties by ascending id."""
    order: Ids = token_ids[np.argsort(-scores[token_ids], kind="stable")]
    return order
