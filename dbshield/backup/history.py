"""Snapshots and drills as people look back at them: a page at a time, the newest first.

It only looks. Manifests and records, which may be megabytes, are left where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import RowMapping, select

from dbshield.backup.catalogue import COLUMNS, Snapshot
from dbshield.backup.drill_store import Kept, kept_of
from dbshield.errors import BackupError
from dbshield.store.database import Database
from dbshield.store.schema import drills, snapshots

PAGE: Final = 25
CHECKING: Final = "checks"
"""The phase that a drill has and a restore has not: it does not count for RTO."""

_POINTS: Final = (drills.c.id, drills.c.snapshot, drills.c.began, drills.c.verdict, drills.c.rpo_seconds, drills.c.rto)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One drill of a history. `rto_seconds` is how long a restore takes until there is a server to use, without the checks."""

    id: int
    snapshot: str
    environment: str
    engine: str
    began: datetime
    verdict: str
    rpo_seconds: float | None
    rto_seconds: float


def points(
    database: Database, *, environment: str | None = None, before: int | None = None, limit: int = PAGE
) -> tuple[tuple[Point, ...], int | None]:
    """Drills in front of one by its number, the newest first, and where the next page begins; None at the end."""
    query = (
        select(*_POINTS, snapshots.c.environment, snapshots.c.engine)
        .join(snapshots, snapshots.c.id == drills.c.snapshot)
        .order_by(drills.c.id.desc())
        .limit(limit + 1)
    )
    if environment is not None:
        query = query.where(snapshots.c.environment == environment)
    if before is not None:
        query = query.where(drills.c.id < before)
    with database.transaction() as connection:
        found = [_point(row) for row in connection.execute(query).mappings()]
    return tuple(found[:limit]), found[limit - 1].id if len(found) > limit else None


def points_of(database: Database, snapshot: str, *, limit: int = PAGE) -> tuple[Point, ...]:
    """The newest drills of one snapshot."""
    query = (
        select(*_POINTS, snapshots.c.environment, snapshots.c.engine)
        .join(snapshots, snapshots.c.id == drills.c.snapshot)
        .where(drills.c.snapshot == snapshot)
        .order_by(drills.c.id.desc())
        .limit(limit)
    )
    with database.transaction() as connection:
        return tuple(_point(row) for row in connection.execute(query).mappings())


def drill(database: Database, number: int) -> Kept:
    """One drill, with its checks. Raises BackupError where there is none."""
    with database.transaction() as connection:
        row = (
            connection.execute(
                select(drills, snapshots.c.environment)
                .join(snapshots, snapshots.c.id == drills.c.snapshot)
                .where(drills.c.id == number)
            )
            .mappings()
            .one_or_none()
        )
    if row is None:
        raise BackupError(f"there is no drill {number}", hint="The page Backups has those that there are.")
    return kept_of(row)


def snapshots_made(
    database: Database, *, environment: str | None = None, before: str | None = None, limit: int = PAGE
) -> tuple[tuple[Snapshot, ...], str | None]:
    """Snapshots older than the one of this id, the newest first, and where the next page begins; None at the end."""
    query = select(*COLUMNS).order_by(snapshots.c.number.desc()).limit(limit + 1)
    if environment is not None:
        query = query.where(snapshots.c.environment == environment)
    if before is not None:
        query = query.where(snapshots.c.number < select(snapshots.c.number).where(snapshots.c.id == before).scalar_subquery())
    with database.transaction() as connection:
        found = [Snapshot(**row) for row in connection.execute(query).mappings()]
    return tuple(found[:limit]), found[limit - 1].id if len(found) > limit else None


def _point(row: RowMapping) -> Point:
    values: dict[str, Any] = {**row}
    phases = values.pop("rto")
    return Point(**values, rto_seconds=sum(seconds for phase, seconds in phases.items() if phase != CHECKING))
