"""Stop strings over text that arrives in pieces of any size, against a search in the whole text."""

import random

import pytest

from gpt2kit.generation.text import RowText


class Pieces:
    """A decoder whose token i is the i-th piece of text; the last piece may only come out at the end."""

    def __init__(self, pieces, last=""):
        self._pieces = pieces
        self._last = last

    def push(self, token_id):
        return self._pieces[token_id]

    def finish(self):
        return self._last


def run(pieces, stops, *, trim, last=""):
    text = RowText(Pieces(pieces, last), stops, trim=trim)
    shown = []
    for index in range(len(pieces)):
        shown.append(text.push(index))
        if text.stop_string is not None:
            break
    shown.append(text.finish())
    assert "".join(shown) == text.text
    return text, shown


def test_without_stop_strings_everything_is_shown_at_once():
    text, shown = run(["ab", "", "c"], [], trim=True, last="\ufffd")
    assert shown == ["ab", "", "c", "\ufffd"]
    assert text.stop_string is None


def test_a_stop_string_across_pieces_is_trimmed():
    text, shown = run(["one E", "N", "D two"], ["END"], trim=True)
    assert shown == ["one ", "", "", ""]
    assert text.stop_string == "END"


def test_kept_text_holds_the_whole_token_that_completed_it():
    _, shown = run(["one E", "N", "D two", "three"], ["END"], trim=False)
    assert shown == ["one E", "N", "D two", ""]


def test_a_false_beginning_is_shown_later():
    _, shown = run(["a E", "N", "x"], ["END"], trim=True)
    assert shown == ["a ", "", "ENx", ""]


def test_what_is_held_at_the_end_is_shown():
    assert run(["a EN"], ["END"], trim=True)[1] == ["a ", "EN"]


def test_the_first_of_several_stops_wins():
    text, _ = run(["aXbY"], ["Y", "X"], trim=True)
    assert (text.text, text.stop_string) == ("a", "X")


@pytest.mark.parametrize("trim", [True, False])
def test_random_texts_stop_where_a_plain_search_does(trim):
    rng = random.Random(0)
    for _ in range(3000):
        whole = "".join(rng.choice("abc") for _ in range(rng.randint(1, 25)))
        stops = [
            "".join(rng.choice("abc") for _ in range(rng.randint(1, 5))) for _ in range(rng.randint(1, 3))
        ]
        pieces, rest = [], whole
        while rest:
            size = rng.randint(1, 4)
            pieces.append(rest[:size])
            rest = rest[size:]
        text, shown = run(pieces, stops, trim=trim)
        # The reference: decode piece by piece, look at all of the text each time.
        so_far = ""
        expected = whole
        for piece in pieces:
            so_far += piece
            starts = [so_far.find(stop) for stop in stops if stop in so_far]
            if starts:
                expected = so_far[: min(starts)] if trim else so_far
                break
        assert text.text == expected
        assert (text.stop_string is not None) == any(stop in whole for stop in stops)
        if not trim:
            assert shown[:-1] == pieces[: len(shown) - 1]
