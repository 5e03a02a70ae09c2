import asyncio
import queue
import threading

import numpy as np
import pytest

from fakes import FakeTokenizer
from gpt2kit import AsyncTextIteratorStreamer, TextIteratorStreamer, TextStreamer

IDS = {name: FakeTokenizer().encode(name)[0] for name in "abcdefgh"}


def feed(streamer: TextStreamer) -> None:
    """Two rows, of which the second ends first."""
    streamer.put_prompts([[IDS["a"]], [IDS["b"]]])
    streamer.put_rows([IDS["c"], IDS["d"]])
    streamer.put_rows([IDS["e"], None])
    streamer.put_rows([IDS["f"], None])
    streamer.end()


def test_rows_are_printed_one_below_the_other(capsys) -> None:
    streamer = TextStreamer(FakeTokenizer())
    feed(streamer)
    feed(streamer)  # it can be used again
    assert capsys.readouterr().out == "acef\nbd\n" * 2


def test_the_first_row_is_printed_as_it_comes(capsys) -> None:
    streamer = TextStreamer(FakeTokenizer(), skip_prompt=True)
    streamer.put_prompts([[IDS["a"]], [IDS["b"]]])
    streamer.put_rows([IDS["c"], IDS["d"]])
    assert capsys.readouterr().out == "c"
    streamer.put_rows([None, IDS["e"]])
    assert capsys.readouterr().out == "\nde"


def test_plain_tensors_work_for_one_row_and_for_several(capsys) -> None:
    streamer = TextStreamer(FakeTokenizer())
    for prompt in (np.array([IDS["a"], IDS["b"]]), np.array([[IDS["a"], IDS["b"]]])):
        streamer.put(prompt)
        streamer.put(np.array([IDS["c"]]))
        streamer.end()
    streamer.put(np.array([[IDS["a"]], [IDS["b"]]]))
    streamer.put(np.array([IDS["c"], IDS["d"]]))
    streamer.end()
    assert capsys.readouterr().out == "abc\nabc\nac\nbd\n"


def test_half_a_character_waits_for_the_other(capsys) -> None:
    first, second = FakeTokenizer().encode("é")
    streamer = TextStreamer(FakeTokenizer(), skip_prompt=True)
    streamer.put_prompts([[IDS["a"]]])
    streamer.put_rows([first])
    assert capsys.readouterr().out == ""
    streamer.put_rows([second])
    assert capsys.readouterr().out == "é"


def test_an_iterator_gives_pieces_of_a_row_and_pairs_of_a_batch() -> None:
    streamer = TextIteratorStreamer(FakeTokenizer(), skip_prompt=True, timeout=5)
    streamer.put(np.array([IDS["a"]]))
    streamer.put(np.array([IDS["b"]]))
    streamer.end()
    assert list(streamer) == ["b"]
    feed(streamer)
    assert list(streamer) == [(0, "c"), (1, "d"), (0, "e"), (0, "f")]
    with pytest.raises(queue.Empty):
        TextIteratorStreamer(FakeTokenizer(), timeout=0.01).__next__()


def test_an_event_loop_is_fed_from_another_thread() -> None:
    async def collect() -> list:
        streamer = AsyncTextIteratorStreamer(FakeTokenizer(), timeout=5)
        thread = threading.Thread(target=feed, args=(streamer,))
        thread.start()
        pieces = [piece async for piece in streamer]
        thread.join()
        with pytest.raises(asyncio.TimeoutError):
            await AsyncTextIteratorStreamer(FakeTokenizer(), timeout=0.01).__anext__()
        return pieces

    assert asyncio.run(collect()) == [(0, "a"), (1, "b"), (0, "c"), (1, "d"), (0, "e"), (0, "f")]
