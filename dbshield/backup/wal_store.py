"""How far the WAL archives have come, as the control database knows it: for those who watch. Restores ask the archive itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from dbshield.backup.moment import lsn_text
from dbshield.backup.wal import Kind, Piece
from dbshield.config import BackupConfig
from dbshield.store.database import Database
from dbshield.store.schema import environments, wal_archives


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """The WAL archive of one plan. Any moment up to `marked_at` (the protected server's clock) can be restored; `age` is how long
    ago that was noted, by the control database's clock."""

    environment: str
    plan: str
    destination: str
    timeline: int
    name: str
    end_lsn: str
    mark_lsn: str | None
    marked_at: datetime | None
    shipped_at: datetime
    since: datetime
    segments: int
    stored: int
    age: timedelta


class WalStore:
    """The archives in the control database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, piece: Piece, *, destination: str) -> None:
        """A piece has been put. StoreError where the control database is away."""
        row = {
            "environment": piece.environment,
            "plan": piece.plan,
            "destination": destination,
            "system_identifier": piece.system,
            "timeline": piece.timeline,
            "name": piece.name,
            "end_lsn": lsn_text(piece.end),
            "mark_lsn": lsn_text(piece.mark) if piece.marked is not None else None,
            "marked_at": piece.marked,
            "segments": int(piece.kind == Kind.SEGMENT),
            "stored_bytes": piece.stored,
        }
        made = insert(wal_archives).values(row)
        newer = {name: made.excluded[name] for name in row if name not in {"environment", "plan", "segments", "stored_bytes"}}
        added = {name: wal_archives.c[name] + made.excluded[name] for name in ("segments", "stored_bytes")}
        with self._database.transaction() as connection:
            connection.execute(insert(environments).values(name=piece.environment).on_conflict_do_nothing())
            connection.execute(
                made.on_conflict_do_update(
                    index_elements=["environment", "plan"], set_={**newer, **added, "shipped_at": func.clock_timestamp()}
                )
            )

    def all(self, environment: str | None = None) -> tuple[Archived, ...]:
        """Every archive, or those of one environment."""
        names = ("environment", "plan", "destination", "timeline", "name", "end_lsn", "mark_lsn", "marked_at", "shipped_at")
        columns = [wal_archives.c[name] for name in (*names, "since", "segments")]
        query = select(
            *columns,
            wal_archives.c.stored_bytes.label("stored"),
            (func.clock_timestamp() - wal_archives.c.shipped_at).label("age"),
        ).order_by(wal_archives.c.environment, wal_archives.c.plan)
        if environment is not None:
            query = query.where(wal_archives.c.environment == environment)
        with self._database.transaction() as connection:
            return tuple(Archived(**row._mapping) for row in connection.execute(query))


def covering(database: Database, plans: Mapping[str, BackupConfig], environment: str) -> str | None:
    """The plan whose WAL archive of an environment is up to date, so that a place in the WAL from now on can be restored."""
    for found in WalStore(database).all(environment):
        plan = plans.get(found.plan)
        if plan is not None and found.marked_at is not None and found.age <= fresh(plan):
            return found.plan
    return None


def fresh(plan: BackupConfig) -> timedelta:
    """How long ago the archive may have grown last while all is well."""
    return timedelta(seconds=plan.wal_max_seconds * 2 + 30)
