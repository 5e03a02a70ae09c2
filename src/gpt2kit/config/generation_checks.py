"""Checks of single values of generation options; each returns the value in its plain type or raises."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpt2kit.errors import GenerationError

Check = Callable[[str, Any], Any]


def integer(at_least: int) -> Check:
    """Make the check of an int that is not smaller than `at_least`."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise GenerationError(f"{name} must be an int of at least {at_least}, got {value!r}")
        number = int(value.__index__())
        if number < at_least:
            raise GenerationError(f"{name} must be at least {at_least}, got {number}")
        return number

    return check


def number(allowed: str, is_allowed: Callable[[float], bool]) -> Check:
    """Make the check of a finite number in a range; `allowed` says it in words."""

    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not hasattr(value, "__float__"):
            raise GenerationError(f"{name} must be a number {allowed}, got {value!r}")
        number = float(value)
        if not math.isfinite(number) or not is_allowed(number):
            hint = (
                "; for greedy decoding set do_sample=False" if name == "temperature" and number == 0.0 else ""
            )
            raise GenerationError(f"{name} must be {allowed}, got {value!r}{hint}")
        return number

    return check


def choice(*allowed: Any) -> Check:
    """Make the check of a value out of a few."""

    def check(name: str, value: Any) -> Any:
        for option in allowed:
            if type(value) is type(option) and value == option:
                return value
        raise GenerationError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")

    return check


boolean = choice(True, False)


def instance(kind: type, what: str) -> Check:
    """Make the check of an object of a class."""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, kind):
            raise GenerationError(f"{name} must be {what}, got {value!r}")
        return value

    return check


def strings(name: str, value: Any) -> list[str]:
    """Check a string or a list of strings, and return a list."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(item, str) and item for item in texts):
        raise GenerationError(f"{name} must be a string or a list of strings, none empty, got {value!r}")
    return list(texts)


def token_id_list(name: str, value: Any) -> list[int]:
    """Check a list of token ids."""
    if not isinstance(value, (list, tuple)):
        raise GenerationError(f"{name} must be a list of token ids, got {value!r}")
    return [integer(0)(name, item) for item in value]


def token_ids(name: str, value: Any) -> int | list[int]:
    """Check a token id or a list of them."""
    if isinstance(value, (list, tuple)):
        return token_id_list(name, value)
    return int(integer(0)(name, value))


def words(name: str, value: Any) -> list[list[int]]:
    """Check a list of words, each a non-empty list of token ids."""
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(word, (list, tuple)) and word for word in value
    ):
        raise GenerationError(f"{name} must be a list of non-empty lists of token ids, got {value!r}")
    return [token_id_list(name, word) for word in value]


def forced_words(name: str, value: Any) -> list[Any]:
    """Check words that must occur; a word may be a list of alternatives, each a list of token ids."""
    if not isinstance(value, (list, tuple)) or not value:
        raise GenerationError(f"{name} must be a non-empty list of words, got {value!r}")
    return [
        words(name, word)
        if isinstance(word, (list, tuple)) and word and isinstance(word[0], (list, tuple))
        else words(name, [word])[0]
        for word in value
    ]


def objects(name: str, value: Any) -> list[Any]:
    """Check a non-empty list of anything."""
    if not isinstance(value, (list, tuple)) or not value:
        raise GenerationError(f"{name} must be a non-empty list, got {value!r}")
    return list(value)


def layers(name: str, value: Any) -> str | list[int]:
    """Check "low", "high" or a list of layer numbers."""
    if isinstance(value, str):
        return str(choice("low", "high")(name, value))
    if not isinstance(value, (list, tuple)) or not value:
        raise GenerationError(f"{name} must be 'low', 'high' or a list of layer numbers, got {value!r}")
    return [integer(0)(name, item) for item in value]


def decay(name: str, value: Any) -> tuple[int, float]:
    """Check a pair (start, factor): an int from 0 on and a number over 0."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise GenerationError(f"{name} must be a pair (start, factor), got {value!r}")
    factor = number("over 0", lambda x: x > 0.0)(f"the factor of {name}", value[1])
    return integer(0)(f"the start of {name}", value[0]), factor


def sequence_bias(name: str, value: Any) -> dict[tuple[int, ...], float] | list[list[Any]]:
    """Check {(ids): bias} or [[[ids], bias], ...]; a bias is a number, -inf included.

    The form is kept; keys that a file holds as text, "(1, 2)", become tuples again.
    """
    if isinstance(value, Mapping) and value:
        return {tuple(_biased(name, ids)): _bias(name, bias) for ids, bias in value.items()}
    if isinstance(value, (list, tuple)) and value:
        pairs = []
        for pair in value:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise GenerationError(f"{name} must hold pairs [token ids, bias], got {pair!r}")
            pairs.append([_biased(name, pair[0]), _bias(name, pair[1])])
        return pairs
    raise GenerationError(
        f"`{name}` has to be a non-empty dictionary, or non-empty list of lists but is {value!r}"
    )


def _biased(name: str, value: Any) -> list[int]:
    ids = value
    if isinstance(value, str):
        import ast

        try:
            ids = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            ids = None
    if not isinstance(ids, Sequence) or isinstance(ids, str) or not ids:
        raise GenerationError(f"{name} must name sequences by non-empty tuples of token ids, got {value!r}")
    return token_id_list(name, list(ids))


def _bias(name: str, value: Any) -> float:
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise GenerationError(f"a bias of {name} must be a number, got {value!r}")
    bias = float(value)
    if math.isnan(bias) or bias == math.inf:
        raise GenerationError(f"a bias of {name} must be a number below infinity, got {value!r}")
    return bias
