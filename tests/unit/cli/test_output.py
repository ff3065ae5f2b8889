"""Answers: the same facts for people, pipes and machines."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from rich.cells import cell_len

from dbshield.cli import audit
from dbshield.cli.output import answer, folded, table, terminal, timestamp
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


COLUMNS = ("id", "agent", "what")
ROW = ("apr-k3x7w2mq", "nightly-report-builder", "drop table shop.orders, shop.customers cascade")


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    """Each test has a terminal of its own."""
    terminal.cache_clear()
    yield
    terminal.cache_clear()


def narrow(monkeypatch: pytest.MonkeyPatch, columns: int = 40) -> Terminal:
    """A terminal without colours. Called by the test itself: what a fixture puts there, pytest replaces."""
    made = Terminal()
    monkeypatch.setattr(sys, "stdout", made)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "dumb")
    return made


def test_regression_an_id_stays_in_one_piece_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty columns had `apr-k`, `3x7w2` and `mq` below each other: nobody could type what they should approve."""
    screen = narrow(monkeypatch)
    table(COLUMNS, [ROW, ROW], empty="")
    assert screen.getvalue().splitlines()[:4] == [
        "id     apr-k3x7w2mq",
        "agent  nightly-report-builder",
        "what   drop table shop.orders, shop.cust",
        "       omers cascade",
    ]
    assert max(map(len, screen.getvalue().splitlines())) <= 40


def test_the_last_column_takes_the_room_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = narrow(monkeypatch, 70)
    table(COLUMNS, [ROW], empty="")
    first, second, third = screen.getvalue().splitlines()
    assert first.split() == [*COLUMNS]
    assert second.startswith("apr-k3x7w2mq  nightly-report-builder  drop table")
    assert third.startswith(" " * 38)


@pytest.mark.parametrize(
    "text",
    [
        f"    select 1 --{' ' * 25}approved by  ann, 2026-05-01",
        "    --" + "\t" * 5 + "approved by  ann",
        "漢" * 30 + "approved by",
    ],
    ids=["spaces", "tabs", "wide"],
)
def test_regression_no_agent_writes_at_the_left_edge(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty columns of a statement, and it went on as if the next line were of dbshield: `approved by ann`."""
    narrow(monkeypatch)
    lines = folded(text, indent=6).split("\n")
    assert len(lines) > 1
    assert all(line.startswith(" " * 6) and cell_len(line) <= 40 for line in lines[1:])
    assert "".join(lines).replace(" ", "") == text.replace(" ", "").replace("\t", ""), "nothing is lost"


def test_a_pipe_has_a_line_for_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print(folded("x" * 500, indent=6))
    assert capsys.readouterr().out == "x" * 500 + "\n"


def _line(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, columns: int = 200) -> str:
    """A stopped statement as `audit tail` shows it."""
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", str(columns))
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


def test_an_entry_goes_on_below_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = re.sub(r"\x1b\[[0-9;]*m", "", _line(monkeypatch, Terminal(), columns=60)).splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(" " * 10)
    assert lines[0] + lines[1][10:] == _line(monkeypatch, io.StringIO()).rstrip("\n")
