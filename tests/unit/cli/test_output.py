"""Answers: the same facts for people, pipes and machines."""

from __future__ import annotations

import io
import json
import re
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest

from dbshield.cli import audit
from dbshield.cli.output import answer, table, terminal, timestamp
from dbshield.control.audit_chain import Link

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


def _line(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> str:
    """A stopped statement as `audit tail` shows it."""
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal.cache_clear()
    entry = {"agent": "claude", "environment": "production", "statement": "drop table [bold]\x1b[31mt"}
    link = Link(
        id=7,
        recorded_at=NOON,
        at=NOON,
        kind="statement",
        environment="production",
        agent="claude",
        database=None,
        session=None,
        person=None,
        verdict="hold",
        rules=("DS101",),
        writer=None,
        sequence=None,
        entry=json.dumps(entry),
        hash=b"",
    )
    audit._show(link, json=False)
    terminal.cache_clear()
    return stream.getvalue()


def test_the_audit_is_in_colours_on_a_terminal_and_plain_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = _line(monkeypatch, Terminal())
    assert "\x1b[1;35mhold DS101\x1b[0m" in coloured
    plain = _line(monkeypatch, io.StringIO())
    assert plain == (
        "       7  2026-05-01T12:00:00.000Z  statement  claude.production  hold DS101  drop table [bold]\\x1b[31mt\n"
    )
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_no_color_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    # Bold is no colour (no-color.org).
    assert set(re.findall(r"\x1b\[[0-9;]*m", _line(monkeypatch, Terminal()))) <= {"\x1b[1m", "\x1b[2m", "\x1b[0m"}
