"""Searches the audit for people who wait: a page at a time, the newest entries first, within a bounded time.

However large the audit is and however rare what is looked for, a search ends after `PATIENCE` and says how far back it came, so
that whoever asks can go on from there. It walks back along the ids, in steps that become longer.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from sqlalchemy import select

from dbshield.control.audit_chain import Link
from dbshield.control.audit_read import FIELDS, Filter, Report, head_in, link_of, one_snapshot
from dbshield.control.audit_store import record
from dbshield.store.database import Database
from dbshield.store.schema import audit

PAGE: Final = 50
PATIENCE: Final = 0.1
"""Seconds after which no further step is begun."""
FIRST_STEP: Final = 4_000
LONGEST_STEP: Final = 64_000
"""Entries that are looked at in one step: the most that is done behind the end of patience."""
VERIFIED: Final = "audit-verified"
FAULTS_TOLD: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The newest first. `older` is the id to go on in front of, None at the beginning of the audit; `searched_to` is the oldest
    entry that was looked at, and `full` whether the page was filled before that."""

    links: tuple[Link, ...]
    older: int | None
    searched_to: int
    full: bool


def search(database: Database, which: Filter, *, limit: int = PAGE, patience: float = PATIENCE) -> Found:
    """A page of what the filter lets through; `which.before` says where it begins. ConfigError where its rule is none."""
    end = time.monotonic() + patience
    condition = replace(which, before=None).condition()
    found: list[Link] = []
    with one_snapshot(database) as connection:
        head = head_in(connection)
        low = head.position if which.before is None else min(head.position, which.before - 1)
        step = FIRST_STEP
        while low > head.dropped and len(found) <= limit:
            high, low = low, max(head.dropped, low - step)
            query = select(*FIELDS).where(condition, audit.c.id > low, audit.c.id <= high).order_by(audit.c.id.desc())
            found += [link_of(row) for row in connection.execute(query.limit(limit + 1 - len(found)))]
            step = min(LONGEST_STEP, 2 * step)
            if time.monotonic() > end:
                break
    full = len(found) > limit
    if full:
        return Found(links=tuple(found[:limit]), older=found[limit - 1].id, searched_to=found[limit - 1].id, full=True)
    return Found(links=tuple(found), older=low + 1 if low > head.dropped else None, searched_to=low + 1, full=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The newest verification that was written into the audit itself: by whom, how far it came, and what was wrong."""

    at: datetime
    person: str
    last: int
    entries: int
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Where the chain stands: `position` is its newest entry, `dropped` the newest that retention took."""

    position: int
    hash: bytes
    recorded_at: datetime | None
    dropped: int
    verified: Verified | None


def chain(database: Database) -> Chain:
    """The chain's state, without walking it."""
    newest = select(*FIELDS).where(audit.c.kind == VERIFIED).order_by(audit.c.id.desc()).limit(1)
    with one_snapshot(database) as connection:
        head = head_in(connection)
        row = connection.execute(newest).one_or_none()
    verified = None
    if row is not None:
        link = link_of(row)
        said = json.loads(link.entry)
        verified = Verified(
            at=link.at,
            person=link.person or "",
            last=int(said.get("last", 0)),
            entries=int(said.get("entries", 0)),
            faults=tuple(map(str, said.get("faults", ()))),
        )
    return Chain(position=head.position, hash=head.hash, recorded_at=head.recorded_at, dropped=head.dropped, verified=verified)


def record_verification(database: Database, report: Report, *, person: str, now: datetime) -> int:
    """Writes into the audit what a verification of it found; the entry's id."""
    return record(
        database,
        kind=VERIFIED,
        at=now,
        person=person,
        entries=report.entries,
        last=report.last,
        hash=report.hash,
        faults=[fault.message for fault in report.faults[:FAULTS_TOLD]],
    )


def entry(database: Database, number: int) -> Link | None:
    """One entry by its id."""
    query = select(*FIELDS).where(audit.c.id == number).limit(1)
    with database.transaction() as connection:
        row = connection.execute(query).one_or_none()
    return link_of(row) if row is not None else None
