"""Numbers as people read them, and the geometry of the drills' picture."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dbshield.backup.history import Point
from dbshield.console.figures import RPO_BASE, RTO_BASE, RTO_TOP, WIDTH, picture, span, volume

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (0.04, "0 s"),
        (0.42, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (42, "42 s"),
        (59.6, "1 min"),
        (250, "4 min 10 s"),
        (3_900, "1 h 5 min"),
        (86_400, "1 d"),
        (183_600, "2 d 3 h"),
        (-5, "-5 s"),
    ],
)
def test_a_length_of_time_is_said_as_people_say_it(seconds: float, said: str) -> None:
    assert span(seconds) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (None, "–"),
        (0, "0 B"),
        (812, "812 B"),
        (4_200, "4.2 kB"),
        (999_600, "1.0 MB"),
        (910_000_000, "910 MB"),
        (3 * 10**18, "3000 PB"),
    ],
)
def test_bytes_are_said_as_people_say_them(number: int | None, said: str) -> None:
    assert volume(number) == said


def point(number: int, verdict: str, rto: float, rpo: float | None) -> Point:
    return Point(
        id=number,
        snapshot=f"s{number}",
        environment="production",
        engine="logical",
        began=NOW + timedelta(days=number),
        verdict=verdict,
        rpo_seconds=rpo,
        rto_seconds=rto,
    )


def test_every_drill_has_a_bar_within_the_picture() -> None:
    points = [point(n, "passed", 10.0 * n, float(n)) for n in range(200)]
    made = picture(points)
    assert len(made.bars) == len(points)
    for bar in made.bars:
        assert made.left <= bar.x
        assert bar.x + bar.width <= WIDTH
        assert RTO_TOP <= bar.y < RTO_BASE, "one that took no time is seen as well"
        assert bar.rpo_y is not None
        assert made.rpo_top <= bar.rpo_y < RPO_BASE
    assert made.bars[-1].y < made.bars[1].y, "higher took longer"


def test_a_verdict_is_said_by_more_than_a_colour() -> None:
    made = picture([point(1, "passed", 42, 30), point(2, "failed", 42, None), point(3, "error", 0, None)])
    assert [bar.sign for bar in made.bars] == ["", "✕", "?"]
    assert [bar.rpo_y is None for bar in made.bars] == [False, True, True]
    assert "1 passed, 1 failed, 1 error" in made.summary
    assert "The newest came to no verdict." in made.summary
    assert "RPO unknown" in made.bars[1].said
