"""gpt2kit.logging: how much is said, as scripts set it through Transformers' functions."""

import logging
import warnings
from collections.abc import Iterator

import pytest

import gpt2kit
from gpt2kit.errors import GPT2Warning


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger("gpt2kit")
    before = root.level, root.propagate, list(root.handlers)
    with warnings.catch_warnings():
        yield
    root.level, root.propagate, root.handlers = before
    root.setLevel(before[0])


def test_a_level_shows_what_is_above_it(capsys: pytest.CaptureFixture[str]) -> None:
    gpt2kit.logging._handler.setStream(__import__("sys").stderr)
    gpt2kit.logging.set_verbosity_info()
    logger = gpt2kit.logging.get_logger("gpt2kit.engine")
    logger.info("which engine")
    logger.debug("a detail")
    assert gpt2kit.logging.get_verbosity() == gpt2kit.logging.INFO
    assert capsys.readouterr().err == "[INFO|gpt2kit.engine] which engine\n"


def test_errors_alone() -> None:
    gpt2kit.logging.set_verbosity_error()
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn("a notice", GPT2Warning, stacklevel=1)
    assert not caught
    gpt2kit.logging.set_verbosity_warning()
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn("a notice", GPT2Warning, stacklevel=1)
    assert len(caught) == 1


def test_said_once(caplog: pytest.LogCaptureFixture) -> None:
    logger = gpt2kit.logging.get_logger("gpt2kit.once")
    for _ in range(3):
        logger.warning_once("the same")  # type: ignore[attr-defined]
        logger.info_once("also")  # type: ignore[attr-defined]
    assert [record.message for record in caplog.records] == ["the same"]


def test_handlers_of_the_application(caplog: pytest.LogCaptureFixture) -> None:
    gpt2kit.logging.enable_default_handler()
    logging.getLogger("gpt2kit").warning("not for them")
    gpt2kit.logging.disable_default_handler()
    logging.getLogger("gpt2kit").warning("for them")
    assert [record.message for record in caplog.records] == ["for them"]


def test_progress_bars() -> None:
    was_enabled = gpt2kit.logging.is_progress_bar_enabled()
    gpt2kit.logging.disable_progress_bar()
    assert not gpt2kit.logging.is_progress_bar_enabled()
    gpt2kit.logging.enable_progress_bar()
    assert gpt2kit.logging.is_progress_bar_enabled()
    if not was_enabled:
        gpt2kit.logging.disable_progress_bar()
