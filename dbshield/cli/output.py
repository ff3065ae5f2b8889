"""How answers look: tables for people on a terminal, plain columns in a pipe, JSON for machines.

Answers go to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from dbshield.visible import visible as visible  # noqa: PLC0414  (for the commands, which say what they show by this module)
from dbshield.visible import visible_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

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
GAP = 2
"""Columns of the terminal between two of a table."""
ROOM = 12
"""Columns that the last one of a table gets at least, where it needs as many."""
"""How words look on a terminal where they fill a cell or begin a headline."""


def say(text: str = "") -> None:
    """A line of the answer."""
    sys.stdout.write(f"{text}\n")


def folded(text: str, *, indent: int) -> str:
    """The text in lines of the terminal, the further ones indented: what an agent wrote could otherwise go on at the left edge,
    and look like a line of ours. In a pipe it is one line."""
    return "\n".join(_pieces(text.expandtabs(), indent)) if sys.stdout.isatty() else text


def _width() -> int:
    """Of the terminal as it is now; rich takes 80 columns for a dumb one."""
    return shutil.get_terminal_size().columns


def _pieces(text: str, indent: int) -> list[str]:
    from rich.cells import cell_len, chop_cells  # noqa: PLC0415  (as below)

    width = _width()
    if not text or cell_len(text) <= width:
        return [text]
    margin = " " * min(indent, width // 2)
    first = chop_cells(text, width)[0]
    return [first, *(f"{margin}{piece}" for piece in chop_cells(text[len(first) :], width - len(margin)))]


def say_folded(line: Text, *, indent: int) -> None:
    """`folded` for a line in colours, on a terminal."""
    from rich.text import Text  # noqa: PLC0415  (as below)

    margin = min(indent, _width() // 2)
    pieces = _pieces(line.plain, indent)
    ends = list(accumulate(len(piece) - (margin if place else 0) for place, piece in enumerate(pieces)))
    parts = line.divide(ends[:-1])
    terminal().print(Text(f"\n{' ' * margin}").join(parts), soft_wrap=True)


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
    from rich.cells import cell_len  # noqa: PLC0415  (a twentieth of a second that a pipe does not need)
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    widths = [max(map(cell_len, column)) for column in zip(columns, *rows, strict=True)]
    if sum(widths[:-1]) + GAP * (len(widths) - 1) + min(widths[-1], ROOM) > _width():
        _records(columns, rows)
        return
    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for place, column in enumerate(columns):
        # What is typed again, an id, stays in one piece; the last column has the room that is left.
        drawn.add_column(column, overflow="fold", no_wrap=place < len(columns) - 1)
    for row in rows:
        # Text, because a name in square brackets is no markup.
        drawn.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    terminal().print(drawn, width=_width())


def _records(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Each row as lines of their own, where the columns do not fit beside each other."""
    from rich.text import Text  # noqa: PLC0415  (as above)

    width = max(map(len, columns)) + GAP
    for place, row in enumerate(rows):
        if place:
            say()
        for column, cell in zip(columns, row, strict=True):
            say_folded(Text.assemble((column.ljust(width), "bold"), (cell, STYLES.get(cell, ""))), indent=width)
