"""Undo points that were kept long enough: their files hold rows of the protected tables in clear, and nobody needs them for ever.

The record is marked first, while nobody else can begin to undo it; the files go afterwards. Whoever dies in between leaves files
whose record says that they are given up, and the next round removes them. Each executor gives up what lies in its own folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import structlog
from sqlalchemy import select, update

from dbshield.config import EnvironmentConfig
from dbshield.control.audit_store import Entry, append
from dbshield.control.undo_files import remove
from dbshield.control.undo_store import alone
from dbshield.store.database import Database
from dbshield.store.schema import approvals, undo_points

EVERY: Final = timedelta(minutes=10)
"""Between two looks of one executor: a point is kept for days."""


class Expiry:
    """Removes undo points below `folder` whose statement ran more than `undo_keep_days` of its environment ago."""

    def __init__(self, database: Database, settings: Mapping[str, EnvironmentConfig], folder: Path) -> None:
        self._database = database
        self._settings = settings
        self._folder = folder
        self._looked: datetime | None = None
        self._log: Any = structlog.get_logger("dbshield.executor")

    def round(self, now: datetime) -> int:
        """Looks, unless it has looked a moment ago; how many points were given up."""
        if self._looked is not None and timedelta() <= now - self._looked < EVERY:
            return 0
        there = self._there()
        given_up = [name for name in there if self._settle(name, now)]
        self._looked = now
        return len(given_up)

    def _there(self) -> list[str]:
        """The points in this folder that are whole; one that is being written has a dot in front."""
        try:
            return sorted(path.name for path in self._folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        except FileNotFoundError:
            return []

    def _settle(self, approval: str, now: datetime) -> bool:
        """Gives one point up when its time is over, and removes the files of one that was given up; whether it was now."""
        marked = False
        with self._database.transaction() as connection:
            # Whoever is undoing it right now finishes; the next round comes.
            if not connection.scalar(select(alone(approval))):
                return False
            query = select(
                undo_points.c.environment,
                undo_points.c.database,
                undo_points.c.expired_at,
                approvals.c.agent,
                approvals.c.finished_at,
            ).join(approvals, approvals.c.id == undo_points.c.id)
            row = connection.execute(query.where(undo_points.c.id == approval)).one_or_none()
            # A folder that no record knows is none of ours; one without an end is running, or nobody knows what became of it.
            if row is None or row.environment not in self._settings:
                return False
            if row.expired_at is None:
                days = self._settings[row.environment].undo_keep_days
                if row.finished_at is None or now - row.finished_at < timedelta(days=days):
                    return False
                connection.execute(update(undo_points).where(undo_points.c.id == approval).values(expired_at=now))
                fields = {
                    "environment": row.environment,
                    "agent": row.agent,
                    "database": row.database,
                    "approval": approval,
                    "executed_at": row.finished_at.isoformat(),
                    "kept_days": days,
                }
                append(connection, [Entry(at=now, kind="undo-expired", fields=fields)])
                marked = True
        remove(self._folder / approval)
        if (self._folder / approval).exists():
            self._log.warning("the files of an expired undo point cannot be removed", folder=str(self._folder / approval))
        elif marked:
            self._log.info("an undo point expired", approval=approval)
        return marked


def kept_until(executed: datetime | None, settings: EnvironmentConfig | None) -> datetime | None:
    """When a point may be given up; None where its statement has not ended, or its environment is not known here."""
    if executed is None or settings is None:
        return None
    return executed + timedelta(days=settings.undo_keep_days)
