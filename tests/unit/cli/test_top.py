"""`dbshield top` as a person sees it."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

from rich.console import Console

from dbshield.cli import top
from dbshield.control.approval import Approval
from dbshield.monitoring.reading import Row, Top

SEEN = Top(
    seconds=1.0,
    rows=(
        Row(
            environment="production",
            agent="claude",
            connections=3,
            per_second=21.0,
            verdicts={"allow": 20.0, "limit": 0.0, "hold": 1.0, "deny": 0.0},
        ),
    ),
    per_second=21.0,
    verdicts={"allow": 20.0, "limit": 0.0, "hold": 1.0, "deny": 0.0},
    latency=(0.000_038, 0.0021),
    durable_wait=None,
    cache_hits=0.992,
    workers=(1, 2),
    held_sessions=1,
    audit_behind=0,
    audit_lag=0.0,
    control_database=True,
    upstreams={"production": True, "staging": False},
)


def _held() -> list[Approval]:
    """Of an approval, what top shows of it."""
    asked = datetime.now(UTC) - timedelta(seconds=42)
    one: Any = SimpleNamespace(
        id="apr-abcdefgh",
        environment="production",
        agent="claude",
        normal="drop table\n orders\x1b[2J",
        requested_at=asked,
    )
    return [cast(Approval, one)]


def _drawn(seen: Top, held: list[Approval], *, known: bool = True, colours: bool = False, width: int = 120) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=colours, color_system="standard" if colours else None)
    console.print(top._drawn(seen, held, len(held) if known else None))
    return out.getvalue()


def test_everything_is_on_one_page() -> None:
    page = _drawn(SEEN, _held())
    for words in (
        "21.0/s  allow 20.0  limit 0.0  hold 1.0  deny 0.0",
        "1 wait for a human",
        "38 µs median, 2.1 ms at 99 %; a write waits - for the audit",
        "99.2% from the cache",
        "1 of 2",
        "away: staging",
        "claude.production",
        "apr-abcdefgh",
        "drop table orders\\x1b[2J",
    ):
        assert words in page
    assert "\x1b" not in page


def test_what_is_wrong_stands_out() -> None:
    red, usual = "\x1b[1;31m", _drawn(replace(SEEN, workers=(2, 2), upstreams={"production": True}), [], colours=True)
    assert red not in usual
    assert f"{red}1 of 2" in _drawn(SEEN, [], colours=True)
    assert f"{red}away: staging" in _drawn(SEEN, [], colours=True)
    assert f"{red}away" in _drawn(replace(SEEN, control_database=False), [], colours=True)


def test_what_is_not_known_is_said_so() -> None:
    page = _drawn(replace(SEEN, latency=None, cache_hits=None), [], known=False)
    assert "unknown wait for a human" in page
    assert "nothing measured" in page


def test_regression_what_waits_is_seen_however_small_the_screen_is() -> None:
    """It stood below the agents, where a screen of 24 lines ends, and forty columns cut its id."""
    many = tuple(replace(SEEN.rows[0], agent=f"nightly-report-builder-{number}") for number in range(30))
    lines = _drawn(replace(SEEN, rows=many), _held(), width=40).splitlines()[:24]
    assert any(line.startswith("apr-abcdefgh ") for line in lines)
