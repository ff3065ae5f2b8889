"""Reads the tables of docs/explanation/session-control.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from dbshield.model import AccessLevel

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "session-control.md"
CELL = re.compile(r"(allow|limit|hold|deny)(?: (DS\d{3}))?")
STATEMENT_COLUMNS, STARTUP_COLUMNS = 5, 3


class Row(NamedTuple):
    """A row of a table: its examples, and the cells behind them."""

    examples: list[str]
    cells: list[str]


class Said(NamedTuple):
    """What the page says of one statement at one access level: the verdict's word, and the rule or nothing."""

    statement: str
    access: AccessLevel
    word: str
    rule: str


def rows(columns: int) -> list[Row]:
    """The rows of all tables with so many columns."""
    found = []
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        examples = re.findall(r"`([^`]+)`", cells[0]) if len(cells) == columns else []
        if examples:
            found.append(Row(examples, cells[1:]))
    return found


def statements() -> list[Said]:
    """Every statement of the page at every access level. Raises ValueError for a cell that is no verdict."""
    found = []
    for row in rows(STATEMENT_COLUMNS):
        for access, cell in zip(AccessLevel, row.cells, strict=False):
            said = CELL.fullmatch(cell)
            if said is None:
                raise ValueError(f"{cell!r} is no verdict, beside {row.examples[0]}")
            found += [Said(example, access, said[1], said[2] or "") for example in row.examples]
    return found
