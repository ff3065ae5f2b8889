"""Answers: the same facts for people, pipes and machines."""

from __future__ import annotations

import io
import json
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest

from dbshield.cli.output import answer, table, timestamp

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_table_in_a_pipe_is_plain_columns(capsys: pytest.CaptureFixture[str]) -> None:
    table(("agent", "tokens", "created"), [("claude", 1, NOON), ("a", 10, NOON)], empty="none")
    assert capsys.readouterr().out.splitlines() == [
        "agent   tokens  created",
        "claude  1       2026-05-01 12:00 UTC",
        "a       10      2026-05-01 12:00 UTC",
    ]


def test_a_table_on_a_terminal_shows_every_cell_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "100")
    table(("agent", "role"), [("claude", "[bold]")], empty="none")
    assert "claude" in terminal.getvalue()
    assert "[bold]" in terminal.getvalue()


def test_nothing_is_said_of_nothing_but_beside_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    table(("agent",), [], empty="There are none.")
    assert capsys.readouterr() == ("", "There are none.\n")


def test_json_has_times_that_machines_read(capsys: pytest.CaptureFixture[str]) -> None:
    answer({"at": NOON.astimezone(timezone(timedelta(hours=2))), "n": None})
    assert json.loads(capsys.readouterr().out) == {"at": "2026-05-01T12:00:00Z", "n": None}
    assert timestamp(NOON) == "2026-05-01T12:00:00Z"
