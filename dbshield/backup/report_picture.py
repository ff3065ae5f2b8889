"""The history of drills as a picture: a bar for each, as high as its RTO, in the colour of its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from html import escape

from dbshield.backup.drill_store import Drill

WIDTH, HEIGHT, FOOT, LEFT = 720, 160, 24, 48
"""Of the picture, in pixels: all of it, below the bars, and left of them."""
LONGEST_BAR = 40
COLOURS = {"passed": "#2da44e", "failed": "#cf222e", "error": "#bf8700"}


def picture(drills: Sequence[Drill]) -> str:
    """Inline SVG of drills, the oldest first."""
    seconds = [_rto(drill) for drill in drills]
    top = max([*seconds, 0.1])
    room = HEIGHT - FOOT - 12
    step = min(LONGEST_BAR, (WIDTH - LEFT) / max(1, len(drills)))
    bars = []
    for place, (drill, each) in enumerate(zip(drills, seconds, strict=True)):
        # One that ended at once is seen as well.
        height = max(3.0, room * each / top)
        x, y = LEFT + place * step, HEIGHT - FOOT - height
        said = f"{drill.began.astimezone(UTC):%Y-%m-%d %H:%M UTC}: {drill.verdict}, RTO {each:.1f} s"
        bars.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(2.0, step - 3):.1f}" height="{height:.1f}" rx="2"'
            f' fill="{COLOURS[drill.verdict]}"><title>{escape(said)}</title></rect>'
        )
    first, last = (f"{drill.began.astimezone(UTC):%Y-%m-%d}" for drill in (drills[0], drills[-1]))
    end = LEFT + len(drills) * step
    dates = f'<text x="{LEFT}" y="{HEIGHT - 6}">{first}</text>'
    if len(drills) > 1 and last != first:
        dates += f'<text x="{end:.1f}" y="{HEIGHT - 6}" text-anchor="end">{last}</text>'
    return (
        f'<svg role="img" aria-label="RTO of {len(drills)} drills" viewBox="0 0 {WIDTH} {HEIGHT}" width="100%">'
        f'<text x="0" y="16">{top:.1f} s</text><text x="0" y="{HEIGHT - FOOT}">0 s</text>'
        f'<line x1="{LEFT}" y1="{HEIGHT - FOOT}" x2="{WIDTH}" y2="{HEIGHT - FOOT}" stroke="#8c959f"/>'
        f"{''.join(bars)}{dates}</svg>"
    )


def _rto(drill: Drill) -> float:
    return sum(seconds for name, seconds in drill.rto.items() if name != "checks")
