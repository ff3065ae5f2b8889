"""What a terminal shows while a backup, a restore or a drill is under way, and that a pipe shows nothing."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from dbshield.backup.engine import Silent
from dbshield.cli.progress import _Bar, drawing, shown

MB = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_step_shows_its_rate_and_what_it_still_takes_on_one_line() -> None:
    clock = Clock()
    console = Console(file=io.StringIO(), force_terminal=False, width=80)
    drawn = drawing(console, clock=clock)
    bar = _Bar(drawn)

    def lines() -> list[str]:
        with console.capture() as captured:
            console.print(drawn.get_renderable())
        return captured.get().splitlines()

    bar.step("base backup", 100 * MB)
    for clock.now in (1.0, 2.0):
        bar.advance(10 * MB)
    (line,) = lines()
    assert "20.0/100.0 MB" in line
    assert "10.0 MB/s" in line
    assert line.rstrip().endswith("0:00:08 left")

    clock.now = 11.0
    bar.step("replay", None)
    clock.now = 14.0
    over, under_way = lines()
    assert "100.0/100.0 MB" in over
    assert over.rstrip().endswith("0:00:11")
    assert under_way.startswith("replay")
    assert under_way.rstrip().endswith("0:00:03")


def test_a_terminal_has_bars_and_a_pipe_has_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with shown() as progress:
        progress.step("download", 2 * MB)
        progress.advance(2 * MB)
    assert "download" in terminal.getvalue()
    assert "2.0/2.0 MB" in terminal.getvalue()

    monkeypatch.setattr(sys, "stderr", pipe := io.StringIO())
    with shown() as progress:
        assert isinstance(progress, Silent)
        progress.step("download", 2 * MB)
    assert pipe.getvalue() == ""
