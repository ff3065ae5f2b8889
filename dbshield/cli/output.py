"""How answers look: tables for people on a terminal, plain columns in a pipe, JSON for machines.

Answers go to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from dbshield.visible import visible as visible  # noqa: PLC0414  (for the commands, which say what they show by this module)
from dbshield.visible import visible_lines

if TYPE_CHECKING:
    from rich.console import Console

STYLES: Mapping[str, str] = {
    "allow": "green",
    "limit": "yellow",
    "hold": "bold magenta",
    "deny": "bold red",
    "no": "bold red",
    "critical": "bold red",
    "warning": "yellow",
    "not looked": "bold magenta",
}
"""How words look on a terminal where they fill a cell or begin a headline."""


def say(text: str = "") -> None:
    """A line of the answer."""
    sys.stdout.write(f"{text}\n")


def headline(word: str, rest: str) -> None:
    """A line of the answer that begins with a word such as a verdict, in its colour on a terminal."""
    if not sys.stdout.isatty():
        say(f"{word}{rest}")
        return
    from rich.console import Console  # noqa: PLC0415  (as below)
    from rich.text import Text  # noqa: PLC0415

    Console().print(Text(word, style=STYLES.get(word, "")) + Text(rest))


@cache
def terminal() -> Console:
    """Where answers go on a terminal, for lines in colours; made once. It keeps to NO_COLOR."""
    from rich.console import Console  # noqa: PLC0415  (as below)

    return Console(highlight=False)


def remark(text: str) -> None:
    """Lines that are not the answer, spelled out: what a server says holds values of agents."""
    sys.stderr.write("\n".join(visible_lines(text)) + "\n")


def answer(value: Any) -> None:
    """One JSON value on one line."""
    sys.stdout.write(json.dumps(value, default=_plain) + "\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Rows under their columns; the sentence `empty` on standard error where there are none."""
    texts = [[_cell(cell) for cell in row] for row in rows]
    if not texts:
        remark(empty)
    elif sys.stdout.isatty():
        _rich_table(columns, texts)
    else:
        widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
        for row in (columns, *texts):
            say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def timestamp(moment: datetime) -> str:
    """RFC 3339, UTC, for machines."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def date(moment: datetime) -> str:
    """For people."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _cell(value: object) -> str:
    return date(value) if isinstance(value, datetime) else visible(str(value))


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return timestamp(value)
    return str(value)


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console  # noqa: PLC0415  (a twentieth of a second that a pipe does not need)
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        # Text, because a name in square brackets is no markup.
        drawn.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    Console().print(drawn)
