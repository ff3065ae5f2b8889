"""The newest entries of the audit, as the page of what happens now shows them: read once for every browser that looks."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from starlette.concurrency import run_in_threadpool

from dbshield.control.audit_chain import Link
from dbshield.control.audit_read import ROWS as READ_AT_ONCE
from dbshield.control.audit_read import Filter, following, newest
from dbshield.store.database import Database

ROWS: Final = 30
READ: Final = 120
"""Entries that are read, so that enough are left when those are out that tell nobody anything."""
FRESH: Final = 0.8
"""Seconds for which a look is good."""
SILENT: Final = frozenset({"rows", "frozen", "thawed", "audit-verified", "audit-retention"})
"""Kinds that follow from others, or are about the audit itself."""
TEXT_MOST: Final = 300
FIELDS: Final = ("reason", "approval", "tag", "user", "client", "source", "by")
"""What is told of an entry that is no statement, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One entry for people."""

    id: int
    at: datetime
    kind: str
    who: str
    where: str
    verdict: str
    rules: tuple[str, ...]
    text: str
    repeats: int
    is_statement: bool


class Feed:
    """The newest lines, the newest first. It looks again where the chain has grown."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = asyncio.Lock()
        self._looked = float("-inf")
        self._position = -1
        self._lines: tuple[Line, ...] = ()

    async def lines(self) -> tuple[Line, ...]:
        """StoreError where the control database is away."""
        async with self._lock:
            if time.monotonic() - self._looked > FRESH:
                await run_in_threadpool(self._look)
                self._looked = time.monotonic()
            return self._lines

    def _look(self) -> None:
        fresh: list[Link] = []
        if self._position >= 0:
            fresh, self._position = following(self._database, Filter(), self._position)
        if self._position < 0 or len(fresh) >= READ_AT_ONCE:
            fresh = newest(self._database, Filter(), READ)
            self._position = fresh[-1].id if fresh else 0
            self._lines = ()
        lines = [read(link) for link in reversed(fresh) if link.kind not in SILENT]
        self._lines = (*lines, *self._lines)[:ROWS]


def read(link: Link) -> Line:
    """An entry for people."""
    fields = _fields(link.entry)
    statement = link.kind == "statement"
    text = fields.get("statement") if statement else " · ".join(str(fields[name]) for name in FIELDS if fields.get(name))
    if statement and text is None:
        text = ", ".join(map(str, fields.get("effects") or ())) or "(not kept)"
    repeats = fields.get("repeats")
    return Line(
        id=link.id,
        at=link.at,
        kind=link.kind,
        who=link.agent or link.person or "",
        where=link.environment or "",
        verdict=link.verdict or "",
        rules=link.rules or (),
        text=short(str(text)),
        repeats=repeats if isinstance(repeats, int) else 1,
        is_statement=statement,
    )


def short(text: str) -> str:
    """No longer than a line of the page has room for; that it goes on is said."""
    return text if len(text) <= TEXT_MOST else f"{text[: TEXT_MOST - 1]}…"


def _fields(entry: str) -> dict[str, Any]:
    try:
        found = json.loads(entry)
    except ValueError:
        # Somebody wrote into the table; `audit verify` says so, this only looks.
        return {}
    return found if isinstance(found, dict) else {}
