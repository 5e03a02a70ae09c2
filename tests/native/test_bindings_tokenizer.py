"""Odd arguments to the tokenizer core: a Python exception, never a crash."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from gpt2kit import _native

VOCAB = b'{"a": 0, "b": 1, "ab": 2, "\xc4\xa0": 3}'
MERGES = b"a b\n"
ODD = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.0, 1.5, float("nan"), 1j, "", "a",
    "\ud800", "\x00", b"", b"a", bytearray(b"a"), memoryview(b"a"), [], (), {}, set(), [None], [b"a"], ["a",
    1], [["a"]], ("a",), {"a": 1}, range(3), object(), int, len, np.array(["a"]), np.array([1.5]),
    np.arange(6).reshape(2, 3), np.int64(3), np.array([1, 2], dtype=object), iter(["a"]), Ellipsis,
]  # fmt: skip


@pytest.fixture
def core() -> _native.Bpe:
    return _native.Bpe(VOCAB, MERGES, False, False).with_added_tokens([], 0)


def call(function: Any, *arguments: Any) -> None:
    """Call with odd arguments: it works or raises one of the exceptions for wrong arguments."""
    with contextlib.suppress(TypeError, ValueError, OverflowError, AttributeError):
        function(*arguments)


@pytest.mark.parametrize("odd", ODD, ids=lambda value: f"{type(value).__name__}-{str(value)[:12]!r}")
def test_odd_values(core: _native.Bpe, odd: Any) -> None:
    good: dict[str, tuple[Any, ...]] = {
        "encode": ("ab", False, False),
        "encode_lists": (["ab"], False, False, 1),
        "encode_arrays": (["ab"], False, False, 1),
        "encode_details": (["ab"], False, False, 1),
        "with_added_tokens": ([("x", 9, False, False, False, False, False)], None),
    }
    for name, arguments in good.items():
        for place in range(len(arguments)):
            call(getattr(core, name), *arguments[:place], odd, *arguments[place + 1 :])
    for name in ("decode", "token_to_id", "id_to_token"):
        call(getattr(core, name), odd)
    for place in range(7):
        token: list[Any] = ["x", 9, False, False, False, False, False]
        token[place] = odd
        call(core.with_added_tokens, [tuple(token)], None)
    call(core.with_added_tokens, [odd], None)
    for place, arguments in enumerate([(VOCAB, MERGES, False, False)] * 4):
        call(_native.Bpe, *arguments[:place], odd, *arguments[place + 1 :])
    call(_native.model_spans, odd)
    assert core.encode("ab", False, False) == [2]


def test_wrong_numbers_of_arguments(core: _native.Bpe) -> None:
    for name in ("encode", "encode_lists", "decode", "with_added_tokens"):
        with pytest.raises(TypeError):
            getattr(core, name)()
    with pytest.raises(TypeError):
        _native.Bpe()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("encode_lists", (["a"], False, False, 0), "threads is 0; it must be from 1 to 256"),
        ("encode_lists", (["a"], False, False, 10**30), "threads is 1000"),
        ("encode_lists", ("ab", False, False, 1), "texts must be a list of str, not str"),
        ("encode_lists", (["a", 5], False, False, 1), "each text must be str, not int"),
        ("encode", (5, False, False), "text must be str, not int"),
        ("decode", ([-1],), "a token id is -1"),
        (
            "with_added_tokens",
            ([("x", 2**22, False, False, False, False, False)], None),
            "added token's id is 4194304",
        ),
    ],
)
def test_errors_name_the_argument(core: _native.Bpe, function: str, arguments: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        getattr(core, function)(*arguments)


def test_arrays_outlive_the_core() -> None:
    ids, row_splits = _native.Bpe(VOCAB, MERGES, False, False).encode_arrays(["abab", ""], False, False, 1)
    gc.collect()
    assert (ids.tolist(), row_splits.tolist()) == ([2, 2], [0, 2, 2])
    assert ids.flags.writeable
    ids[0] = 5


def test_list_that_shrinks_while_it_is_encoded(core: _native.Bpe) -> None:
    texts = ["ab" * 1000] * 2000
    stop = threading.Event()

    def shrink_and_grow() -> None:
        while not stop.is_set():
            del texts[1000:]
            texts.extend(["ba" * 1000] * 1000)

    thread = threading.Thread(target=shrink_and_grow)
    thread.start()
    try:
        for _ in range(4):
            core.encode_lists(texts, False, False, 2)
    finally:
        stop.set()
        thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_after_use() -> None:
    code = (
        "import os\n"
        "from gpt2kit import _native\n"
        f"core = _native.Bpe({VOCAB!r}, {MERGES!r}, False, False).with_added_tokens([], 0)\n"
        "texts = ['ab' * 9000] * 40\n"
        "core.encode_lists(texts, False, False, 2)\n"
        "child = os.fork()\n"
        "ok = core.encode_lists(texts, False, False, 2)[39][:1] == [2]\n"
        "if child == 0: os._exit(0 if ok else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0 and ok\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_daemon_thread_at_exit() -> None:
    code = (
        "import threading\n"
        "from gpt2kit import _native\n"
        f"core = _native.Bpe({VOCAB!r}, {MERGES!r}, False, False).with_added_tokens([], 0)\n"
        "def run():\n"
        "    while True: core.encode_lists(['ab' * 90000] * 20, False, False, 2)\n"
        "threading.Thread(target=run, daemon=True).start()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
