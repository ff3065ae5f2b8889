"""The audit for other programs: lines of JSON that the chain can be checked with, or comma-separated values for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

from dbshield.control.audit_chain import Link
from dbshield.control.audit_read import exported
from dbshield.control.audit_store import stamp

COLUMNS: Final = (
    "id",
    "recorded_at",
    "at",
    "kind",
    "environment",
    "agent",
    "database",
    "session",
    "person",
    "verdict",
    "rules",
    "entry",
    "hash",
)
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""What begins a formula in spreadsheets. Source: OWASP, CSV Injection."""


def json_lines(links: Iterable[Link]) -> Iterator[str]:
    """Each entry as a line of JSON, with all that its hash is made of."""
    for link in links:
        yield f"{exported(link)}\n"


def csv_lines(links: Iterable[Link]) -> Iterator[str]:
    """A head, and each entry as a line of comma-separated values (RFC 4180, bare line feeds). A text that a spreadsheet would
    run has an apostrophe in front; the lines of JSON have it as it was."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for link in links:
        writer.writerow([_cell(getattr(link, name)) for name in COLUMNS])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    if buffer.tell():
        yield buffer.getvalue()


def _cell(value: object) -> object:
    match value:
        case datetime():
            return stamp(value)
        case bytes():
            return value.hex()
        case tuple():
            return " ".join(map(str, value))
        case str() if value.startswith(FORMULA):
            # A client says what its database is called.
            return f"'{value}"
        case _:
            return value
