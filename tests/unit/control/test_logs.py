"""Logs: JSON lines where no person looks, on the stream that is not the answer."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
import structlog

from dbshield.control.logs import configure_logging


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_json_lines_where_no_person_looks() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    structlog.get_logger().info("listening", address="127.0.0.1:6432")
    structlog.get_logger().debug("too small to be said")
    try:
        int("inside")
    except ValueError:
        structlog.get_logger().exception("a bug")
    logging.getLogger("alembic").warning("from %s", "a library")
    logging.getLogger("alembic").info("chatter")
    said = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(entry["level"], entry["event"]) for entry in said] == [
        ("info", "listening"),
        ("error", "a bug"),
        ("warning", "from a library"),
    ]
    assert said[0]["address"] == "127.0.0.1:6432"
    assert said[0]["timestamp"].endswith("Z")
    assert said[1]["exception"][0]["exc_type"] == "ValueError"


def test_a_sentence_for_people() -> None:
    stream = Terminal()
    configure_logging(stream=stream)
    structlog.get_logger().warning("listening", address="127.0.0.1:6432")
    assert "listening" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


@pytest.mark.parametrize(("form", "stream", "is_json"), [("json", Terminal(), True), ("console", io.StringIO(), False)])
def test_the_form_can_be_chosen(form: str, stream: io.StringIO, is_json: bool) -> None:
    configure_logging(format=form, stream=stream)  # type: ignore[arg-type]
    structlog.get_logger().info("x")
    assert stream.getvalue().startswith("{") == is_json


def test_nothing_that_somebody_wrote_is_obeyed_by_a_terminal() -> None:
    stream = Terminal()
    configure_logging(stream=stream)
    structlog.get_logger().warning("refused", user="\x1b[2Jroot", reason="no agent \x1b]0;owned\x07", why="\u202e")
    logging.getLogger("alembic").warning("from %s", "\x9b2J")
    try:
        raise ValueError("\x1b[2J")  # noqa: TRY301  (its traceback is what is looked at)
    except ValueError:
        structlog.get_logger().exception("a bug")
    said = re.sub(r"\x1b\[\d*m", "", stream.getvalue())
    assert all(sign.isprintable() or sign == "\n" for sign in said), ascii(said)
    assert "user=\\x1b[2Jroot" in said
    assert "ValueError: \\x1b[2J" in said


def test_the_least_level_can_be_chosen() -> None:
    stream = io.StringIO()
    configure_logging(level="error", stream=stream)
    structlog.get_logger().warning("x")
    logging.getLogger("x").warning("x")
    assert stream.getvalue() == ""
    configure_logging(level="debug", stream=stream)
    structlog.get_logger().debug("now")
    assert json.loads(stream.getvalue())["event"] == "now"


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_log_that_cannot_be_written_stops_nothing(form: str) -> None:
    stream = io.StringIO()
    configure_logging(format=form, stream=stream)  # type: ignore[arg-type]
    stream.close()
    structlog.get_logger().error("the disk is full")
    logging.getLogger("x").error("so it is")
    assert stream.closed
