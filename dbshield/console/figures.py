"""Numbers as people read them, and the history of drills as a picture.

The picture says everything twice: a verdict has a colour and a sign, and the table beside it has every number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dbshield.backup.history import Point

WIDTH: Final = 720
LEFT: Final = 64
"""Pixels left of the bars, for the numbers of the axes."""
RTO_TOP: Final = 24
RTO_BASE: Final = 150
RPO_TOP: Final = 182
RPO_BASE: Final = 240
HEIGHT: Final = 264
WIDEST: Final = 36
LOWEST: Final = 3.0
"""Pixels of a bar that would not be seen otherwise."""
SIGNS: Final = {"passed": "", "failed": "✕", "error": "?"}
UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")
MOST_OF_A_UNIT: Final = 999.5
"""What is no less would be written as 1000."""
ENDS: Final = {"error": "came to no verdict"}
STEPS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800, 86_400)
"""Seconds that an axis ends at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One drill: its RTO from `y` down to the base, its RPO from `rpo_y`; nothing where RPO is not known."""

    x: float
    width: float
    y: float
    rpo_y: float | None
    verdict: str
    sign: str
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What the template draws. `summary` says it in words."""

    bars: tuple[Bar, ...]
    rto_most: str
    rpo_most: str
    first: str
    last: str
    summary: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    rto_top: int = RTO_TOP
    rto_base: int = RTO_BASE
    rpo_top: int = RPO_TOP
    rpo_base: int = RPO_BASE


def picture(points: Sequence[Point]) -> Picture:
    """Drills, the oldest first; at least one."""
    rto_most = _above(max(point.rto_seconds for point in points))
    rpo_most = _above(max((point.rpo_seconds or 0.0) for point in points))
    step = min(WIDEST, (WIDTH - LEFT) / len(points))
    bars = []
    for place, point in enumerate(points):
        rpo_y = None
        if point.rpo_seconds is not None:
            rpo_y = RPO_BASE - max(LOWEST, (RPO_BASE - RPO_TOP) * max(0.0, point.rpo_seconds) / rpo_most)
        rpo = span(point.rpo_seconds) if point.rpo_seconds is not None else "unknown"
        bars.append(
            Bar(
                x=round(LEFT + place * step + 1, 1),
                width=round(max(1.5, step - 3), 1),
                y=round(RTO_BASE - max(LOWEST, (RTO_BASE - RTO_TOP) * point.rto_seconds / rto_most), 1),
                rpo_y=round(rpo_y, 1) if rpo_y is not None else None,
                verdict=point.verdict,
                sign=SIGNS.get(point.verdict, "?"),
                said=f"{point.began:%Y-%m-%d %H:%M}: {point.verdict}, RTO {span(point.rto_seconds)}, RPO {rpo}",
            )
        )
    counted = {verdict: sum(point.verdict == verdict for point in points) for verdict in SIGNS}
    told = ", ".join(f"{count} {verdict}" for verdict, count in counted.items() if count)
    longest = max(point.rto_seconds for point in points)
    return Picture(
        bars=tuple(bars),
        rto_most=span(rto_most),
        rpo_most=span(rpo_most),
        first=f"{points[0].began:%Y-%m-%d}",
        last=f"{points[-1].began:%Y-%m-%d}",
        summary=f"{len(points)} drills from {points[0].began:%Y-%m-%d} to {points[-1].began:%Y-%m-%d}: {told}. "
        f"The newest {ENDS.get(points[-1].verdict, points[-1].verdict)}. The longest restore took {span(longest)}.",
    )


def span(seconds: float) -> str:
    """A length of time: "0.4 s", "42 s", "4 min 10 s", "1 h 5 min", "2 d 3 h"."""
    if seconds < 0:
        return f"-{span(-seconds)}"
    if seconds < 9.95:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    whole = round(seconds)
    for size, unit, below, small in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {unit} {rest} {small}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def volume(number: int | None) -> str:
    """Bytes: "812 B", "4.2 MB", "1.3 TB", of 1000 each."""
    if number is None:
        return "–"
    size, unit = float(number), UNITS[0]
    for unit in UNITS:
        if size < MOST_OF_A_UNIT or unit == UNITS[-1]:
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == UNITS[0] or size >= 99.5 else f"{size:.1f} {unit}"


def _above(seconds: float) -> float:
    """Where an axis ends that has to hold this much."""
    for step in STEPS:
        if seconds <= step:
            return float(step)
    return math.ceil(seconds / STEPS[-1]) * float(STEPS[-1])
